"""Older programs' doors to whole workflows; thin, without logic of their own."""
