//! The Internet checksum (RFC 1071), as far as a corrupted packet needs it.

/// The start value of a checksum that is still to be computed over a segment in
/// which one byte was changed, such that the result is that of the unchanged
/// segment (RFC 1624): the receiver then sees the change.
///
/// `is_low` tells whether the byte is the second of its 16-bit word.
#[inline(always)]
pub const fn hide_change(start: u16, old: u8, new: u8, is_low: bool) -> u16 {
    let shift = if is_low { 0 } else { 8 };
    let (old, new) = ((old as u32) << shift, (new as u32) << shift);
    let sum = start as u32 + old + (!new & 0xffff);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(start: u16, bytes: &[u8]) -> u16 {
        let mut sum = u32::from(start);
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_checksum_stays_that_of_the_unchanged_bytes() {
        let bytes: Vec<u8> = (0..101u8).map(|i| i.wrapping_mul(37)).collect();
        for (at, bit) in [(0, 0), (1, 7), (50, 3), (99, 6), (100, 1)] {
            for start in [0, 1, 0x8000, 0xffff, 0x1234] {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let hidden = hide_change(start, bytes[at], changed[at], at % 2 == 1);
                let (a, b) = (checksum(start, &bytes), checksum(hidden, &changed));
                // 0 and 0xffff are the same number here.
                assert!(a == b || (a ^ b) == 0xffff, "{at} {start:x}: {a:x} {b:x}");
                assert_ne!(checksum(hidden, &bytes), b);
            }
        }
    }
}
