"""Where the tasks run, and whether the workers there are fit for them."""
