"""The network method: physics-made features, a generator, the overlap constraint, training and inference."""
