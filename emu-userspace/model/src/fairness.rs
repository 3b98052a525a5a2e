//! How equally a resource was shared.

/// Jain's index of fairness: `(sum x)^2 / (n sum x^2)`, from 1/n to 1 (Jain, Chiu and
/// Hawe, DEC-TR-301, 1984).
pub fn jain(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum, squares) = values.fold((0.0, 0.0, 0.0), |(n, sum, squares), x| {
        (n + 1.0, sum + x, squares + x * x)
    });
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (count * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equals() {
        assert_eq!(jain([3.0, 3.0, 3.0].into_iter()), 1.0);
        assert_eq!(jain([1.0, 0.0].into_iter()), 0.5);
    }
}
