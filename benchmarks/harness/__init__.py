"""What every benchmark and proof stands on: a run and its line, child processes, load, made-up payloads."""
