"""Older programs' doors to training and inference."""
