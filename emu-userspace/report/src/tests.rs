//! Tests: the files of a report have the promised contents.
use super::{Axis, Chart, Environment, Point, Report, Table, Verdict, png, scale::number};

fn chart() -> Chart {
    Chart::new("RTT & <rules>")
        .x(Axis::new("vnodes").log())
        .y(Axis::new("RTT, ms").log())
        .line(
            "emu",
            [1.0, 100.0, 65_536.0].map(|x| Point::new(x, 0.4).between(0.35, 0.47)),
        )
        .line("u32", [(1.0, 0.4), (100.0, 0.5), (65_536.0, 12.0)])
        .mark_y("goal", 2.0)
}

#[test]
fn a_picture_has_its_text_in_pixels() {
    let svg = chart().svg().unwrap();
    assert!(svg.contains("RTT &amp; &lt;rules&gt;"), "{svg}");
    let with = png(&svg).unwrap();
    assert_eq!(with[..8], *b"\x89PNG\r\n\x1a\n");
    // The same picture without text: a missing font would give a picture like it.
    let (mut without, mut inside) = (String::new(), false);
    for line in svg.lines() {
        inside |= line.starts_with("<text");
        if !inside {
            without += line;
        }
        inside &= !line.contains("</text>");
    }
    assert!(without.len() < svg.len());
    assert_ne!(png(&without).unwrap(), with);
}

#[test]
fn all_kinds_are_drawn_whatever_the_data() {
    let many = (0..40).map(|i| format!("curve {i}"));
    let mut crowd = Chart::new("many").x(Axis::new("x")).y(Axis::new("y").log());
    for name in many {
        crowd = crowd.step(name, [(0.0, 0.0), (1.0, 2.0), (2.0, f64::NAN)]);
    }
    let bars = Chart::new("bars")
        .x(Axis::new("").categories(["a", "b"]))
        .y(Axis::new("ns").from_zero())
        .bars("one", [1.0, -2.0])
        .bars("two", [3.0, 4.0]);
    let nothing = Chart::new("nothing").x(Axis::new("x").log());
    let cdf = Chart::new("cdf").cdf("delay", (0..5000).map(f64::from));
    let flat = Chart::new("flat").points("p", [(1.0, 5.0), (1.0, 5.0)]);
    for chart in [crowd, bars, nothing, cdf, flat] {
        let svg = chart.svg().unwrap();
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        assert!(!png(&svg).unwrap().is_empty());
    }
}

#[test]
fn a_page_stands_alone() {
    let mut report = Report::new("t", "A <title>", &Environment::here());
    report.section("Numbers");
    report.verdict(Verdict::Undecided, "the host was busy");
    report.figure("rtt", chart(), "caption");
    let mut table = Table::new(["name", "ns"]);
    table.row(["a, \"b\"".into(), "12.5".into()]);
    assert!(table.is_numeric(1) && !table.is_numeric(0));
    report.table("cost", table);
    let html = report.html().unwrap();
    assert!(html.contains("<svg role=\"img\"") && html.contains("A &lt;title&gt;"));
    for outside in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let files = report.write(&out, &serde_json::json!({"n": 1})).unwrap();
    let names: Vec<String> = files
        .iter()
        .map(|f| f.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        ["t.html", "t.json", "t-rtt.svg", "t-rtt.png", "t-cost.csv"]
    );
    let csv = std::fs::read_to_string(out.join("t-cost.csv")).unwrap();
    assert_eq!(csv, "name,ns\r\n\"a, \"\"b\"\"\",12.5\r\n");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("t.json")).unwrap()).unwrap();
    assert_eq!(json["n"], 1);
    assert!(json["environment"]["kernel"].as_str().unwrap().len() > 5);
}

#[test]
fn numbers_have_few_digits() {
    for (value, text) in [
        (0.0, "0"),
        (65_536.0, "65,536"),
        (-1_234_567.0, "-1,234,567"),
        (0.05, "0.05"),
        (12.5, "12.5"),
        (0.000_02, "2e-5"),
    ] {
        assert_eq!(number(value), text);
    }
}
