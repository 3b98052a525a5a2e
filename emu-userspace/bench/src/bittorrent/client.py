"""A BitTorrent client: libtorrent, which chooses peers and pieces by itself; settings that
would make the runs of a swarm differ are fixed.

client.py ADDRESS METAINFO CONNECTIONS [digest]

Downloads the file into the working folder. When the complete file is on the disk, the client
writes `done` there; with `digest` it also prints the seconds since its own start and the
file's SHA-1. It uploads until it is killed.
"""
import hashlib
import sys
import time

begin = time.monotonic()
import libtorrent as lt

address, metainfo, connections = sys.argv[1], sys.argv[2], int(sys.argv[3])
DISABLED = 2
FIXED_SLOTS = 0
ROUND_ROBIN = 0
session = lt.session(
    {
        # Only this vnode's address: a host has the addresses of all its vnodes.
        "listen_interfaces": f"{address}:6881",
        "outgoing_interfaces": address,
        "enable_ip_notifier": False,
        # No traffic outside the swarm.
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "in_enc_policy": DISABLED,
        "out_enc_policy": DISABLED,
        # As many connections as clients of P2PLab's time had; they are opened at once.
        "connections_limit": connections,
        "num_want": connections,
        "connection_speed": 100,
        "torrent_connect_boost": connections,
        "choking_algorithm": FIXED_SLOTS,
        "seed_choking_algorithm": ROUND_ROBIN,
        "unchoke_slots_limit": 4,
        "num_optimistic_unchoke_slots": 1,
        "unchoke_interval": 5,
        "optimistic_unchoke_interval": 10,
        # Access links are slow, so a slow peer is not a bad one.
        "request_timeout": 300,
        "piece_timeout": 300,
        "peer_timeout": 600,
        "inactivity_timeout": 3600,
        "peer_turnover": 0,
        # The data in flight of all slots fits into the up pipe's queue: packet losses
        # would add chance, and so would requests of peers without a slot.
        "send_socket_buffer_size": 4096,
        "send_buffer_watermark": 32768,
        "allowed_fast_set_size": 0,
        # Few threads, few wake-ups, small buffers: hundreds of clients share a CPU.
        "aio_threads": 1,
        "hashing_threads": 1,
        "tick_interval": 1000,
        "send_redundant_have": False,
        "mmap_file_size_cutoff": 1 << 20,
        "alert_mask": lt.alert.category_t.status_notification
        | lt.alert.category_t.error_notification
        | lt.alert.category_t.storage_notification,
    }
)
flags = lt.torrent_flags
handle = session.add_torrent(
    {
        "ti": lt.torrent_info(metainfo),
        "save_path": ".",
        "storage_mode": lt.storage_mode_t.storage_mode_sparse,
        "flags": flags.disable_dht | flags.disable_lsd | flags.disable_pex,
    }
)
handle.set_max_connections(connections)
digest_wanted = "digest" in sys.argv[4:]
while True:
    session.wait_for_alert(3_600_000)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.torrent_finished_alert):
            handle.flush_cache()
        elif isinstance(alert, lt.cache_flushed_alert):
            open("done", "w").close()
            # The cache may be flushed several times.
            if not digest_wanted:
                continue
            digest_wanted = False
            with open(handle.torrent_file().name(), "rb") as file:
                digest = hashlib.sha1(file.read()).hexdigest()
            print(f"whole {time.monotonic() - begin:.3f}", flush=True)
            print(f"sha1 {digest}", flush=True)
        elif alert.category() & lt.alert.category_t.error_notification:
            print(alert.message(), flush=True)
