"""The same job on Celery, Dramatiq, taskiq, BullMQ and ours, on one server in one run: `python -m benchmarks.peers`.

libraries     what they are, and how each is set up
environment   their own packages, in `.peers/`; none of them is ever imported here
contest       one library's workers and senders, measured from outside
report        figures to one line
foreign/      what runs in their environments: handlers and senders, and the lock files
"""
