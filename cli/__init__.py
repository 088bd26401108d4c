"""The command line. Its modules import the platform lazily, so that `--help` is quick."""
