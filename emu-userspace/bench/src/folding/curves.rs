//! Curves of an experiment that was run several times, and the distance between them.

/// Increasing values, each with its time in seconds.
pub type Curve = Vec<(f64, f64)>;

/// Value at a time, by linear interpolation.
pub fn at(curve: &[(f64, f64)], time_s: f64) -> f64 {
    let after = curve.partition_point(|(t, _)| *t < time_s);
    match (after.checked_sub(1).map(|i| curve[i]), curve.get(after)) {
        (Some((t0, v0)), Some((t1, v1))) => v0 + (v1 - v0) * (time_s - t0) / (t1 - t0),
        (None, Some((_, first))) => *first,
        (Some((_, last)), None) => last,
        (None, None) => 0.0,
    }
}

/// Largest vertical distance between two curves, as a share of the larger final value, and
/// the time of that distance in seconds.
pub fn distance(a: &[(f64, f64)], b: &[(f64, f64)]) -> (f64, f64) {
    let total = |curve: &[(f64, f64)]| curve.last().map_or(0.0, |(_, v)| *v);
    let whole = total(a).max(total(b)).max(f64::MIN_POSITIVE);
    a.iter()
        .chain(b)
        .map(|(t, _)| ((at(a, *t) - at(b, *t)).abs() / whole, *t))
        .max_by(|x, y| x.0.total_cmp(&y.0))
        .unwrap_or((0.0, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_the_largest_gap_between_two_curves() {
        let straight = [(0.0, 0.0), (10.0, 100.0)];
        let late = [(0.0, 0.0), (5.0, 20.0), (10.0, 100.0)];
        assert_eq!(at(&straight, 2.5), 25.0);
        assert_eq!(at(&straight, 20.0), 100.0);
        assert_eq!(distance(&straight, &late), (0.3, 5.0));
        assert_eq!(distance(&straight, &straight).0, 0.0);
        assert_eq!(distance(&[], &[]).0, 0.0);
    }
}
