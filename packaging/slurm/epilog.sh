#!/bin/sh
# For `Epilog=` in slurm.conf: runs as root on every node when a job has ended, also
# one that was killed with SIGKILL, and takes back what emu may have left there.
command -v emu >/dev/null || exit 0
# Nothing is loaded: nothing is done. An epilog that fails drains the node.
emu unload --kill >/dev/null 2>&1 || exit 0
