//! The results of the impairments as a Markdown page, for the documentation.
use std::fmt::Write as _;

use super::{
    Outcome,
    report::{measured, promised, tests, verdict},
};

/// The Markdown page: the results, and how to read them.
pub fn markdown(outcome: &Outcome, full: bool) -> String {
    let size = if full { "--full" } else { "--quick" };
    let mut page = format!(
        "# Accuracy of the impairments

This page compares each impairment of emu with its formula and with netem at the same
setting. One run measures both alternately, with numbered UDP datagrams and the kernel's
receive timestamps. This command wrote the page:

    cargo xtask run -- bench impairments {size} --markdown docs/accuracy.md

Kernel: {}. Machine: {}.
Without impairments a datagram takes {:.3} ms (emu) and {:.3} ms (netem) beyond the
latency; the benchmark subtracts this time before it compares delays with the model. It
repeats a round of delays during which the machine stalled for more than 17 ms, at most
three times, regardless of the result.

## Results

`z`: difference between the measured share and the model's in standard errors, which include
the model's bursts. `D`, `p`: Kolmogorov-Smirnov distance of the delays, and the probability
of a distance at least as large by chance. `runs p`: the same probability for the lengths of
runs, by chi-squared. OFF: one of the probabilities is below 1 in 1000. The last column says
whether emu is no further from the model than netem, within the noise of samples of these
sizes.

| setting | model | n | emu | test | | netem | test | | no further |
|---|---|---|---|---|---|---|---|---|---|
",
        outcome.kernel, outcome.machine, outcome.path_ms[0], outcome.path_ms[1]
    );
    for row in &outcome.rows {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            promised(row),
            row.emu.sent,
            measured(&row.emu),
            tests(&row.emu),
            verdict(&row.emu),
            measured(&row.netem),
            tests(&row.netem),
            verdict(&row.netem),
            if row.no_further { "yes" } else { "NO" }
        );
    }
    page += "
## Managed queues

netem has no AQM, so the table compares emu with Linux's qdiscs of the same name, below a
token bucket of 1 Mbit/s. The load is an open loop that does not react to marks and drops.

| queue | n | | formula | emu | Linux | | topology | Linux's qdisc |
|---|---|---|---|---|---|---|---|---|
";
    for q in &outcome.queues {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | {} | `{}` | `{}` |",
            q.name,
            q.sent,
            q.quantity,
            q.model,
            q.emu,
            q.linux,
            if q.as_model { "ok" } else { "OFF" },
            q.emu_setting,
            q.linux_setting
        );
    }
    page += "
## Everything else that arrived

| setting | emulator | mean ms | deviation ms | serial correlation | lost | twice | reordered |
|---|---|---|---|---|---|---|---|
";
    for row in &outcome.rows {
        for (line, side) in [("emu", &row.emu), ("netem", &row.netem)] {
            let _ = writeln!(
                page,
                "| {} | {line} | {:.3} | {:.3} | {:.3} | {:.3} % | {:.3} % | {:.3} % |",
                row.name,
                side.mean_ms,
                side.deviation_ms,
                side.serial_correlation,
                side.lost * 100.0,
                side.duplicated * 100.0,
                side.reordered * 100.0
            );
        }
    }
    page + "\n## Settings\n\n| setting | topology | netem |\n|---|---|---|\n"
        + &outcome
            .rows
            .iter()
            .map(|r| {
                format!(
                    "| {} | `{}` | `{}` |\n",
                    r.name, r.emu_setting, r.netem_setting
                )
            })
            .collect::<String>()
        + REMARKS
}

/// Explanation of the figures; the same for every run.
const REMARKS: &str = "
## Remarks

- **Correlated losses and overtaking** follow netem's formula: each random number is a mixture
  of a new number and the number before. This makes numbers near 0 rare, so 10 % with a
  correlation of 25 % loses under 2 %, with netem too. Use Gilbert-Elliott for bursts of a
  known length.
- **Correlated jitter** does not follow netem's formula: with the given probability a
  datagram has the offset of the datagram before, so the distribution stays as configured and
  the serial correlation is the configured one. netem mixes numbers and then takes the
  remainder of a division by the spread, or by the length of a table, which removes most of
  the correlation; netem's serial correlation in the table shows this.
- **Pareto** tables of netem end at 4 standard deviations, so netem's deviation is smaller
  than configured; in the middle, its Pareto table is wider than configured. emu's table
  extends to 22 standard deviations. The deviation of a sample of a Pareto distribution of
  shape 3 says little: the fourth moment is infinite, and most samples of some thousands fall
  short of the model's 50 ms.
- **Corruption**: emu changes a bit of the IP packet, and a checksum always detects this. netem
  changes a bit of the frame, and a few percent of these bits are in the Ethernet header: a
  changed source address there harms nothing.
- **CoDel**: the formula is RFC 8289 on the departures of an ideal pipe.
- **RED**: at this load one datagram in 21 exceeds the rate, and the formula is the average
  wait at which the drop probability is 1 in 21. Linux's qdisc spaces its drops evenly, as the
  paper of Floyd and Jacobson proposes, so it drops about twice as often at the same average
  and settles at a shorter wait; emu drops with the unmodified probability. Linux's RED does
  not have the gentle mode either: it drops everything above `max`.
- **Jitter** of emu keeps the order of packets unless the topology sets `overtake: true`;
  these measurements set it, because netem lets packets overtake. With order kept, delays
  follow the formula for packets whose distance in time exceeds the range of the jitter.
";
