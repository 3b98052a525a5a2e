#!/bin/sh
# Publishes a file of $2 bytes: its .torrent, the file itself for the seeders and its
# digest by HTTP at the address $1, and tracks it.
set -eu
mkdir public
seq 1 999999999 2>/dev/null | head -c "$2" >public/file
(cd public && sha256sum file >file.sha256)
# Pieces of 32 KiB: clients can share what they have early.
mktorrent -a "http://$1:6969/announce" -l 15 -o public/file.torrent public/file >mktorrent.log
# Debian's opentracker serves the torrents of a list only. A torrent's name there is the
# SHA-1 of its last dictionary, which begins after `4:info` and ends before the final `e`.
begin=$(grep -abo '4:info' public/file.torrent | head -n 1 | cut -d : -f 1)
mkdir root
tail -c +"$((begin + 7))" public/file.torrent | head -c -1 | sha1sum | cut -c 1-40 >root/allowed
# It gives up root, if it has it, in a root folder of its own.
chmod 755 root
busybox httpd -p "$1:80" -h public
exec opentracker -p 6969 -P 6969 -d root -w allowed
