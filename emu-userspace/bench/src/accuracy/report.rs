//! Verdicts on delays, rates and TCP, and the HTML report.
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};

use super::{DelayRow, Outcome, RATE_ERROR, TcpRow};

/// Allowed excess of emu's median error over netem's, in milliseconds: the second pass
/// through the stack that replaces a packet by its clone, and the ifb device.
const MORE_MS: f64 = 0.2;
/// Largest share of CPU time that a hypervisor may steal before the verdict is undecided.
const STOLEN: f64 = 0.05;
/// Largest width in milliseconds of the middle 90 % of netem's own errors; above it the
/// machine was too noisy for a verdict.
const MAX_NETEM_SPREAD_MS: f64 = 1.0;
/// Share of the ideal throughput that netem must reach; below it, a lower throughput of emu
/// proves nothing.
const REACHED: f64 = 0.5;

/// Quantile of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (share * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl Outcome {
    pub(super) fn judge(&self) -> Vec<(Verdict, String)> {
        let mut verdicts = Vec::new();
        let noise = self.noise();
        let mut say = |holds: bool, limit: Option<String>, text: String| {
            verdicts.push(match (limit.or_else(|| noise.clone()), holds) {
                (_, true) => (Verdict::Holds, text),
                (Some(why), false) => (Verdict::Undecided, format!("{text}, but {why}")),
                (None, false) => (Verdict::Fails, text),
            });
        };
        let worst = self
            .delays
            .iter()
            .map(|row| {
                let [emu, netem] = row.errors_ms.each_ref().map(|e| quantile(e, 0.5).abs());
                emu - netem
            })
            .fold(f64::NEG_INFINITY, f64::max);
        say(
            worst <= MORE_MS,
            None,
            format!("emu's median delay error is at most {worst:+.3} ms above netem's"),
        );
        for row in &self.rates {
            let best = row.best();
            let text = format!(
                "{}: emu's rate is {:.2} % off, the best of the others {:.2} %",
                row.case.rate,
                row.errors[0].abs() * 100.0,
                best * 100.0
            );
            let limit = (best > RATE_ERROR)
                .then(|| "none reached it: the machine was the limit".to_owned());
            say(row.holds(), limit, text);
        }
        for row in &self.tcp {
            let ([emu, netem], case) = (row.share, row.case);
            let text = format!(
                "TCP, {} x {} ms x {}: emu {:.1} % of the ideal, netem {:.1} %",
                case.rate,
                case.rtt_ms,
                case.streams,
                emu * 100.0,
                netem * 100.0
            );
            let limit = (netem < REACHED)
                .then(|| "neither came near it: the machine was the limit".to_owned());
            say(row.holds(), limit, text);
        }
        verdicts
    }

    /// The reason why this run cannot prove a failure, if there is one.
    fn noise(&self) -> Option<String> {
        if self.health.stolen > STOLEN {
            let share = self.health.stolen * 100.0;
            return Some(format!(
                "other machines took {share:.0} % of the processors"
            ));
        }
        let spread = |row: &DelayRow| {
            let netem = &row.errors_ms[1];
            quantile(netem, 0.95) - quantile(netem, 0.05)
        };
        let widest = self.delays.iter().map(spread).fold(0.0, f64::max);
        (widest > MAX_NETEM_SPREAD_MS)
            .then(|| format!("netem's own delays spread over {widest:.1} ms: a restless machine"))
    }

    /// Builds the report with charts, tables and verdicts.
    pub(super) fn report(&self, environment: &Environment) -> Report {
        let title = "Delays, rates and TCP beside netem, TBF and HTB";
        let mut report = Report::new("accuracy", title, environment);
        for (verdict, text) in &self.verdicts {
            report.verdict(*verdict, text.clone());
        }
        report.section("Delays");
        report.text(
            "From just before a datagram is sent to the kernel's stamp at its arrival, less the \
             delay asked for; the way through the stack is in it, for both. In turns.",
        );
        let mut table = Table::new([
            "delay, ms",
            "emu, median error, ms",
            "99 %",
            "spread 5 to 95 %",
            "netem, median error, ms",
            "99 %",
            "spread 5 to 95 %",
        ]);
        let mut chart = Chart::new("Error of delays")
            .x(Axis::new("error, ms"))
            .y(Axis::new("share of datagrams"));
        for row in &self.delays {
            let cells = row.errors_ms.each_ref().map(|e| {
                let spread = quantile(e, 0.95) - quantile(e, 0.05);
                [quantile(e, 0.5), quantile(e, 0.99), spread].map(|ms| format!("{ms:.3}"))
            });
            table.row([row.delay_ms.to_string()].into_iter().chain(cells.concat()));
            for (name, errors) in ["emu", "netem"].into_iter().zip(&row.errors_ms) {
                let most = errors.len() * 99 / 100;
                let most = errors.iter().take(most.max(1)).copied();
                chart = chart.cdf(format!("{name}, {} ms", row.delay_ms), most);
            }
        }
        report.table("delays", table);
        report.figure(
            "delays",
            chart,
            "The latest hundredth of the datagrams is left out.",
        );
        report.section("Rates");
        let mut table = Table::new(["rate", "emu, %", "netem, %", "TBF, %", "HTB, %"]);
        for row in &self.rates {
            let cells = row.errors.map(|e| format!("{:+.3}", e * 100.0));
            table.row([row.case.rate.to_owned()].into_iter().chain(cells));
        }
        report.text("Error of the rate at which a full queue empties, medians over turns.");
        report.table("rates", table);
        report.section("TCP");
        let names = |row: &TcpRow| {
            let case = row.case;
            format!("{} x {} ms x {}", case.rate, case.rtt_ms, case.streams)
        };
        let mut table = Table::new(["line x streams", "emu, % of ideal", "netem, % of ideal"]);
        for row in &self.tcp {
            let cells = row.share.map(|s| format!("{:.1}", s * 100.0));
            table.row([names(row)].into_iter().chain(cells));
        }
        report.text(
            "What the receiving programs got, by the rate less headers of full segments; both \
             lines at the same time.",
        );
        report.table("tcp", table);
        let percent = |i: usize| self.tcp.iter().map(move |r| r.share[i] * 100.0);
        let chart = Chart::new("TCP throughput")
            .x(Axis::new("").categories(self.tcp.iter().map(names)))
            .y(Axis::new("% of ideal").from_zero())
            .bars("emu", percent(0))
            .bars("netem", percent(1));
        report.figure("tcp", chart, "After the first third, which is slow start.");
        report
    }
}
