"""Jobs: from what a user wrote to a run folder with a result, on one process or many."""
