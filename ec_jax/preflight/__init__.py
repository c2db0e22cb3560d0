"""A config compiled for TPUs that are not there: whether it fits, and what binds it."""
