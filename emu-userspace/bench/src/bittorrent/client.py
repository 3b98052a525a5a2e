"""A BitTorrent client: libtorrent, with its own choice of peers and pieces, but for what
makes every run of a swarm another one.

client.py ADDRESS METAINFO CONNECTIONS [digest]

Gets the file into its working folder. When all of it is on the disk, writes `done` there,
with `digest` also prints the seconds since its own start and the file's SHA-1. Uploads until
it is killed.
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
        # Its own address alone: a host has those of all vnodes on it.
        "listen_interfaces": f"{address}:6881",
        "outgoing_interfaces": address,
        "enable_ip_notifier": False,
        # Nothing but the swarm.
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "in_enc_policy": DISABLED,
        "out_enc_policy": DISABLED,
        # As many connections as clients of P2PLab's time had; a slot is given at once.
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
        # Lines are slow: what is slow here is no bad peer.
        "request_timeout": 300,
        "piece_timeout": 300,
        "peer_timeout": 600,
        "inactivity_timeout": 3600,
        "peer_turnover": 0,
        # What all slots have under way fits into the line's queue: a lost packet is
        # chance, and so is who may ask for what before it has a slot.
        "send_socket_buffer_size": 4096,
        "send_buffer_watermark": 32768,
        "allowed_fast_set_size": 0,
        # Few threads, few wake-ups, small buffers: hundreds share a processor.
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
            # A cache may be flushed again.
            if not digest_wanted:
                continue
            digest_wanted = False
            with open(handle.torrent_file().name(), "rb") as file:
                digest = hashlib.sha1(file.read()).hexdigest()
            print(f"whole {time.monotonic() - begin:.3f}", flush=True)
            print(f"sha1 {digest}", flush=True)
        elif alert.category() & lt.alert.category_t.error_notification:
            print(alert.message(), flush=True)
