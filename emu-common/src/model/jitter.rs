//! Jitter: random delays around a latency.

/// Uniform over `latency - spread ..= latency + spread`.
pub const UNIFORM: u32 = 0;
/// First table: normal distribution.
pub const NORMAL: u32 = 1;
/// Pareto distribution with shape 3.
pub const PARETO: u32 = 2;
/// A quarter normal, three quarters Pareto.
pub const PARETONORMAL: u32 = 3;
/// First table of the topology's own.
pub const FIRST_OWN: u32 = 4;
/// Tables in all, [`UNIFORM`] (which needs none) included.
pub const TABLES: u32 = 16;

/// Entries of a table: quantiles of the distribution at equal steps.
pub const TABLE_ENTRIES: u32 = 4_096;
/// Entry that stands for one spread, as in the tables of iproute2.
pub const TABLE_SCALE_BITS: u32 = 13;
/// Largest spread: with any entry the product stays below 2^63.
pub const MAX_SPREAD_NS: u64 = 3_600_000_000_000;

/// Slot of a random number's entry in the array of all tables.
#[inline(always)]
pub const fn table_slot(table: u32, random: u32) -> u32 {
    table * TABLE_ENTRIES + random % TABLE_ENTRIES
}

/// Uniform offset in nanoseconds: `-spread ..= spread`.
#[inline(always)]
pub const fn uniform_ns(spread_ns: u64, random: u32) -> i64 {
    let width = spread_ns * 2;
    // The high part of a 32 x 64 bit product, without 128 bits.
    let offset = (width >> 32) * random as u64 + (((width & 0xffff_ffff) * random as u64) >> 32);
    offset as i64 - spread_ns as i64
}

/// Offset in nanoseconds of a table's entry, which is in 1/8192 of a spread.
#[inline(always)]
pub const fn table_ns(spread_ns: u64, entry: i32) -> i64 {
    (spread_ns as i64 * entry as i64) >> TABLE_SCALE_BITS
}

/// A latency moved by an offset; never below zero.
#[inline(always)]
pub const fn moved_ns(latency_ns: u64, offset_ns: i64) -> u64 {
    let moved = (latency_ns as i64).saturating_add(offset_ns);
    if moved < 0 { 0 } else { moved as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_covers_both_ends() {
        assert_eq!(uniform_ns(1_000, 0), -1_000);
        assert!((998..=1_000).contains(&uniform_ns(1_000, u32::MAX)));
        assert_eq!(uniform_ns(1_000, 1 << 31), 0);
        assert_eq!(uniform_ns(0, 123), 0);
        let wide = uniform_ns(MAX_SPREAD_NS, u32::MAX);
        assert!((MAX_SPREAD_NS as i64 - wide) < 2_000);
    }

    #[test]
    fn entries_scale_the_spread() {
        assert_eq!(table_ns(1_000_000, 8_192), 1_000_000);
        assert_eq!(table_ns(1_000_000, -4_096), -500_000);
        assert!(table_ns(MAX_SPREAD_NS, 32_767 * 8) > 0);
    }

    #[test]
    fn a_delay_is_never_negative() {
        assert_eq!(moved_ns(5, -7), 0);
        assert_eq!(moved_ns(5, 7), 12);
    }
}
