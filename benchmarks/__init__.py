"""Measurements of the whole machine: `python -m benchmarks`, or one member, `python -m benchmarks.routing`.

Each member prints one line of JSON to standard output and everything else to standard error.
`docs/benchmarks.md` says how to read them. `features` and `peers` install other libraries first, and run only by name.
"""
