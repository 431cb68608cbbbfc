"""The command `ptycho`: one file for each family of verbs."""
