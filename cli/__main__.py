"""`python -m cli`: the same as the `tocsin` command."""

from cli.app import run

run()
