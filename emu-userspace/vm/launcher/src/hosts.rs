//! Several VMs that are the hosts of one network, each on a processor of its own if the
//! machine has that number.
use std::{ops::RangeInclusive, path::Path, thread, time::Duration};

use anyhow::{anyhow, bail};

use crate::{
    Request,
    kernel::Kernel,
    lockstep,
    provider::Provider,
    segment::{Plug, segment},
};

/// Number of VMs that one network can have.
pub const COUNT: RangeInclusive<i64> = 1..=16;
/// The network between them; the first has the first address.
const NETWORK: &str = "172.16.0";
/// Makes a VM a host: an interface with an address, and a name. Each host makes a file in a
/// folder, and runs its command once the files of all hosts exist.
const BECOME: &str = "ip link set dev vec0 name eth0
ip addr add \"$0/24\" dev eth0
ip link set dev eth0 up
echo \"$EMU_HOST\" > /proc/sys/kernel/hostname
: > \"${1:-/dev/null}${1:+/$EMU_RANK}\"
looks=0
until [ -z \"$1\" ] || [ \"$(ls \"$1\" | wc -l)\" -ge \"$EMU_SIZE\" ]; do
  [ $looks -lt 600 ] || { echo 'the other hosts have not come within a minute' >&2; exit 1; }
  looks=$((looks + 1))
  sleep 0.1
done
shift
exec \"$@\"";

/// Runs `count` VMs in parallel, each with the request for its number from 0. Returns the status
/// of the first host that failed, otherwise 0.
///
/// # Errors
/// The kernel runs in QEMU, or a VM cannot be started.
pub fn run(
    provider: &dyn Provider,
    kernel: &Kernel,
    count: usize,
    request: impl Fn(usize) -> Request + Sync,
) -> anyhow::Result<u8> {
    if kernel.is_emulated() {
        bail!("only VMs of User-Mode Linux can be joined, and {kernel} runs in QEMU");
    }
    let latency = request(0).clock.map(|clock| clock.segment_latency);
    let in_one_time = latency.is_some();
    let meet = tempfile::Builder::new().prefix("emu-vms-").tempdir()?;
    // In one emulated time all VMs boot at the same moment, so no host has to wait.
    let meet = (!in_one_time).then(|| meet.path());
    let host = |plug: Plug, rank: usize| {
        let mut request = request(rank);
        request.argv = become_host(rank, count, meet, latency, request.argv);
        request.plug = Some(plug);
        kernel.run(provider, &request)
    };
    let statuses: Vec<anyhow::Result<u8>> = thread::scope(|scope| {
        let plugs = match latency {
            Some(latency) => lockstep::segment(count, latency),
            None => segment(count),
        };
        let plugs = plugs?.into_iter().enumerate();
        let host = &host;
        let running: Vec<_> = plugs
            .map(|(rank, plug)| scope.spawn(move || host(plug, rank)))
            .collect();
        let joined = running.into_iter().map(|host| {
            let outcome = host.join();
            outcome.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        });
        anyhow::Ok(joined.collect())
    })?;
    let mut first = 0;
    for (rank, status) in statuses.into_iter().enumerate() {
        let status = status.map_err(|error| error.context(name(rank)))?;
        if status != 0 && first == 0 {
            first = status;
        }
    }
    Ok(first)
}

/// Name of a host.
pub fn name(rank: usize) -> String {
    format!("h{rank}")
}

/// The command of a host, after the commands that make the VM a host. emu deducts the latency
/// of the segment, if it is known, from the latencies that it emulates.
fn become_host(
    rank: usize,
    count: usize,
    meet: Option<&Path>,
    latency: Option<Duration>,
    argv: Vec<String>,
) -> Vec<String> {
    let words = [
        "env".to_owned(),
        format!("EMU_HOST={}", name(rank)),
        format!("EMU_RANK={rank}"),
        format!("EMU_SIZE={count}"),
        format!(
            "EMU_HOST_LATENCY={}us",
            latency.unwrap_or_default().as_micros()
        ),
        "sh".to_owned(),
        "-ec".to_owned(),
        BECOME.to_owned(),
        format!("{NETWORK}.{}", rank + 1),
        meet.map(|folder| folder.display().to_string())
            .unwrap_or_default(),
    ];
    words.into_iter().chain(argv).collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::become_host;

    #[test]
    fn a_host_knows_its_place() {
        let argv = vec!["true".to_owned(), "a b".to_owned()];
        let argv = become_host(
            1,
            2,
            Some(Path::new("/meet")),
            Some(Duration::from_millis(5)),
            argv,
        );
        assert_eq!(
            argv[..5],
            [
                "env",
                "EMU_HOST=h1",
                "EMU_RANK=1",
                "EMU_SIZE=2",
                "EMU_HOST_LATENCY=5000us"
            ]
        );
        assert_eq!(argv[8..], ["172.16.0.2", "/meet", "true", "a b"]);
    }
}
