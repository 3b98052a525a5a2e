#!/bin/sh
# For `Epilog=` in slurm.conf: runs as root on every node when a job has ended, even
# by SIGKILL, and unloads the state that emu may have left on the node.
command -v emu >/dev/null || exit 0
# If nothing is loaded, the script does nothing. A failing epilog drains the node.
emu unload --kill >/dev/null 2>&1 || exit 0
