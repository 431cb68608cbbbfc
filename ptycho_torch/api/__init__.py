"""Doors for the ptychodus application; thin, what is computed is computed elsewhere."""
