//! What a lane begins with (WIRE §8.2).

/// Bytes with which a lane begins, so that its receiver sees where they come.
pub const PROBE_LEN: usize = 4096;

/// The bytes that stand for `challenge`: SplitMix64 from there on, as little-endian words.
#[must_use]
pub fn probe(challenge: u64) -> [u8; PROBE_LEN] {
    let mut bytes = [0; PROBE_LEN];
    let mut state = challenge;
    for word in bytes.as_chunks_mut::<8>().0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (z ^ (z >> 31)).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first words of SplitMix64 from 1234567, as published with the generator.
    #[test]
    fn a_probe_is_what_the_description_says() {
        let bytes = probe(1_234_567);
        assert_eq!(bytes[..8], 6_457_827_717_110_365_317_u64.to_le_bytes());
        assert_eq!(bytes[8..16], 3_203_168_211_198_807_973_u64.to_le_bytes());
    }
}
