//! Which partition a workspace's events go to: Kafka's default partitioner.

use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// Partition of a workspace: `(murmur2(id) & 0x7fffffff) % partitions`, as every Kafka producer computes it.
///
/// With no partitions at all it is partition 0.
pub fn partition_of(id: &WorkspaceId, partitions: u32) -> PartitionId {
    partition_of_key(id.as_str().as_bytes(), partitions)
}

/// [`partition_of`] for the key of a record as it is.
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionId {
    PartitionId(
        (murmur2(key) & 0x7fff_ffff)
            .checked_rem(partitions)
            .unwrap_or(0),
    )
}

/// The 32-bit murmur2 hash with Kafka's seed.
///
/// The algorithm is that of `org.apache.kafka.common.utils.Utils.murmur2`, whose result is this one as a signed number.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the algorithm takes the length modulo 2^32"
)]
pub fn murmur2(key: &[u8]) -> u32 {
    let mut hash = SEED ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        k ^= k >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ k.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let tail = rest
            .iter()
            .rev()
            .fold(0_u32, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_that_of_kafka() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn murmur2_follows_its_definition_for_every_tail() {
        for length in 0..64_u32 {
            let key: Vec<u8> = (0..length)
                .map(|i| (i * 37 + 11).to_le_bytes()[0])
                .collect();
            assert_eq!(murmur2(&key), by_definition(&key), "length {length}");
        }
    }

    /// The definition, byte by byte, in signed arithmetic as Kafka writes it.
    fn by_definition(data: &[u8]) -> u32 {
        let length = data.len();
        let m = 0x5bd1_e995_i32;
        let mut h = 0x9747_b28c_u32.cast_signed() ^ i32::try_from(length).expect("short");
        let at = |i: usize| i32::from(data[i]);
        for i in 0..length / 4 {
            let i4 = i * 4;
            let mut k = at(i4) + (at(i4 + 1) << 8) + (at(i4 + 2) << 16) + (at(i4 + 3) << 24);
            k = k.wrapping_mul(m);
            k ^= (k.cast_unsigned() >> 24).cast_signed();
            k = k.wrapping_mul(m);
            h = h.wrapping_mul(m) ^ k;
        }
        let base = length & !3;
        if length % 4 == 3 {
            h ^= at(base + 2) << 16;
        }
        if length % 4 >= 2 {
            h ^= at(base + 1) << 8;
        }
        if length % 4 >= 1 {
            h = (h ^ at(base)).wrapping_mul(m);
        }
        h ^= (h.cast_unsigned() >> 13).cast_signed();
        h = h.wrapping_mul(m);
        (h ^ (h.cast_unsigned() >> 15).cast_signed()).cast_unsigned()
    }

    #[test]
    fn a_workspace_always_goes_to_a_partition_that_exists() {
        let id = WorkspaceId::new("acme").expect("valid");
        for partitions in 1..100 {
            assert!(partition_of(&id, partitions).0 < partitions);
        }
        assert_eq!(partition_of(&id, 0), PartitionId(0));
    }
}
