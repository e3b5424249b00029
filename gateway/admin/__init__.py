"""The admin listener: health, readiness and metrics, as a small Starlette application of its own."""
