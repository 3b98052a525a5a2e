//! The report of `bench packet`.
use emu_common::names::{PROG_EGRESS, PROG_IFB, PROG_INGRESS};
use emu_report::{Axis, Chart, Environment, Point, Report, Table};

use super::{FEATURE_VNODES, FEATURES, Outcome, PacketRow};
use crate::{MedianCi, filling};

impl Outcome {
    /// Builds the report with charts, tables and verdicts.
    pub(super) fn page(&self, environment: &Environment) -> Report {
        let title = "What a packet costs in each program";
        let mut report = Report::new("packet", title, environment);
        for (verdict, text) in &self.verdicts {
            report.verdict(*verdict, text.clone());
        }
        report.text(
            "Nanoseconds of a program's run on a UDP packet of 100 bytes, by BPF_PROG_TEST_RUN, \
             variants in turns, medians with 95 % intervals over turns. Repeated: one packet \
             over and over. At random: each packet is between two vnodes drawn at random and a \
             run of its own, which costs what the row of the empty program shows before any \
             of ours; the same packets for all variants of a turn. Variants that are measured together push each other out of the processor's caches, so compare `at random` within one table only. The pass that replaces a \
             packet by its clone is not in it: a test run has no socket.",
        );
        report.section("Against the number of vnodes");
        report.table("by-vnodes", table(&self.by_vnodes));
        let mut chart = Chart::new("A packet between vnodes drawn at random")
            .x(Axis::new("vnodes").log())
            .y(Axis::new("ns").from_zero());
        for (name, program, feature) in [
            ("egress, plain", PROG_EGRESS, FEATURES[0].0),
            ("egress, everything", PROG_EGRESS, "everything"),
            ("ifb", PROG_IFB, FEATURES[0].0),
            ("ingress", PROG_INGRESS, FEATURES[0].0),
            ("empty program", "empty", "empty"),
        ] {
            let rows = self.by_vnodes.iter();
            let rows = rows.filter(|r| r.program == program && r.feature == feature);
            let point = |r: &PacketRow| {
                let s = &r.random_ns;
                Point::new(f64::from(r.vnodes), s.median).between(s.low, s.high)
            };
            chart = chart.line(name, rows.map(point).collect::<Vec<_>>());
        }
        report.figure("by-vnodes", chart, "Runs of their own, so caches matter.");
        report.section("Against what is on");
        report.table("by-feature", table(&self.by_feature));
        let names = self.by_feature.iter().map(|r| r.feature);
        let chart = Chart::new(format!(
            "emu_egress with one feature on, {FEATURE_VNODES} vnodes"
        ))
        .x(Axis::new("").categories(names))
        .y(Axis::new("ns").from_zero())
        .bars(
            "repeated",
            self.by_feature.iter().map(|r| r.repeated_ns.median),
        )
        .bars(
            "at random",
            self.by_feature.iter().map(|r| r.random_ns.median),
        );
        report.figure(
            "by-feature",
            chart,
            "Each feature alone, then all together.",
        );
        report.section("Making the vnodes");
        report.text(
            "All of a load but queueing disciplines, filters and the journal, addresses by \
             routes, medians of loads into namespaces of their own.",
        );
        report.table("filling", filling::table(&self.filling));
        report
    }
}

fn table(rows: &[PacketRow]) -> Table {
    let mut table = Table::new([
        "program",
        "on",
        "vnodes",
        "repeated, ns",
        "95 % interval",
        "at random, ns",
        "95 % interval",
    ]);
    for row in rows {
        let (repeated, random) = (&row.repeated_ns, &row.random_ns);
        let interval = |s: &MedianCi| format!("{:.0} to {:.0}", s.low, s.high);
        table.row([
            row.program.to_owned(),
            row.feature.to_owned(),
            row.vnodes.to_string(),
            format!("{:.0}", repeated.median),
            interval(repeated),
            format!("{:.0}", random.median),
            interval(random),
        ]);
    }
    table
}
