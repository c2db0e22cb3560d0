"""How fast ec_jax is, beside what one would otherwise use: docs/performance.md."""
