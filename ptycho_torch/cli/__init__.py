"""The older command lines: `python -m ptycho_torch.train` and `python -m ptycho_torch.inference`."""
