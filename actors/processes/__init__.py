"""Worker processes: where plain handlers that compute execute, past the interpreter's lock.

This package's modules are imported one by one: a worker process needs other ones than the system.
"""
