"""How fast the evaluation is, beside what one would otherwise use; see README.md."""
