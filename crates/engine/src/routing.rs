//! Which partition a workspace's events go to: the default partitioners of Kafka's clients.

use std::fmt;
use std::str::FromStr;

use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// How the producers of a topic choose the partition of a key, by librdkafka's names.
///
/// The names end in "random" because records without a key go to any partition; an event always has a key.
///
/// ```
/// use workspace_engine_core::routing::Partitioner;
///
/// let id = workspace_status::WorkspaceId::new("acme")?;
/// assert_eq!(Partitioner::default().partition_of(&id, 12).0, 0);
/// assert_eq!("consistent_random".parse(), Ok(Partitioner::ConsistentRandom));
/// # Ok::<(), workspace_status::InvalidWorkspaceId>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Partitioner {
    /// `(murmur2(key) & 0x7fffffff) % partitions`: the default of Java, kafkajs, franz-go, and of this engine.
    #[default]
    Murmur2Random,
    /// `crc32(key) % partitions`: the default of librdkafka, and so of Python, Go, Node, .NET and Ruby clients on it.
    ConsistentRandom,
    /// The FNV-1a hash as a signed number, `% partitions`, without its sign: the default of Sarama.
    Fnv1aRandom,
}

impl Partitioner {
    /// All partitioners.
    pub const ALL: [Self; 3] = [
        Self::Murmur2Random,
        Self::ConsistentRandom,
        Self::Fnv1aRandom,
    ];

    /// Its name in librdkafka's `partitioner` and in this engine's setting.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Murmur2Random => "murmur2_random",
            Self::ConsistentRandom => "consistent_random",
            Self::Fnv1aRandom => "fnv1a_random",
        }
    }

    /// Partition of a workspace; 0 if `partitions` is 0.
    pub fn partition_of(self, id: &WorkspaceId, partitions: u32) -> PartitionId {
        self.partition_of_key(id.as_str().as_bytes(), partitions)
    }

    /// [`Partitioner::partition_of`] for the raw key of a record.
    pub fn partition_of_key(self, key: &[u8], partitions: u32) -> PartitionId {
        let hash = match self {
            Self::Murmur2Random => murmur2(key) & 0x7fff_ffff,
            Self::ConsistentRandom => crc32fast::hash(key),
            Self::Fnv1aRandom => fnv1a(key).cast_signed().unsigned_abs(),
        };
        PartitionId(hash.checked_rem(partitions).unwrap_or(0))
    }
}

impl fmt::Display for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not a partitioner's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no partitioner; there are murmur2_random, consistent_random and fnv1a_random")]
pub struct UnknownPartitioner(String);

impl FromStr for Partitioner {
    type Err = UnknownPartitioner;

    fn from_str(name: &str) -> Result<Self, UnknownPartitioner> {
        let mut all = Self::ALL.into_iter();
        all.find(|partitioner| partitioner.name() == name)
            .ok_or_else(|| UnknownPartitioner(name.to_owned()))
    }
}

/// Partition of a workspace by the default partitioner.
pub fn partition_of(id: &WorkspaceId, partitions: u32) -> PartitionId {
    Partitioner::default().partition_of(id, partitions)
}

/// [`partition_of`] for the raw key of a record.
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionId {
    Partitioner::default().partition_of_key(key, partitions)
}

/// The 32-bit FNV-1a hash.
fn fnv1a(key: &[u8]) -> u32 {
    key.iter().fold(FNV_OFFSET, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME)
    })
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
    fn crc32_and_fnv1a_are_those_of_librdkafka_and_sarama() {
        // The check value of CRC-32/ISO-HDLC, which is zlib's.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        // librdkafka's own vectors, which are those of Go's hash/fnv without the sign.
        let unaligned = "PreAmbleWillBeRemoved,ThePrePartThatIs";
        for (key, expected) in [
            ("kafka", 0x0d33_c4e1),
            ("giberish123456789", 0x77a5_8295),
            ("1234", 0x023b_dd03),
            ("234", 0x2dea_3cd2),
            ("34", 0x740f_a83e),
            ("4", 0x310c_a263),
            (unaligned, 0x65cb_d69c),
            (&unaligned[1..], 0x6e49_c79a),
            (&unaligned[2..], 0x69ee_d356),
            (&unaligned[3..], 0x6abc_c023),
            ("", 0x7ee3_623b),
        ] {
            let hash = fnv1a(key.as_bytes()).cast_signed().unsigned_abs();
            assert_eq!(hash, expected, "{key}");
        }
    }

    #[test]
    fn each_partitioner_puts_a_key_where_its_clients_do() {
        // By kafkajs and the Java client, by confluent-kafka for Python, and by Sarama.
        for (key, expected) in [
            ("acme", [0, 2, 7]),
            ("kafka", [4, 11, 5]),
            ("giberish123456789", [8, 11, 5]),
            ("1234", [0, 7, 3]),
            ("34", [6, 2, 10]),
        ] {
            let found = Partitioner::ALL.map(|by| by.partition_of_key(key.as_bytes(), 12).0);
            assert_eq!(found, expected, "{key}");
        }
    }

    #[test]
    fn a_partitioner_is_found_by_its_name_alone() {
        for partitioner in Partitioner::ALL {
            assert_eq!(partitioner.to_string().parse(), Ok(partitioner));
        }
        assert!("murmur2".parse::<Partitioner>().is_err());
    }

    #[test]
    fn a_workspace_always_goes_to_a_partition_that_exists() {
        let id = WorkspaceId::new("acme").expect("valid");
        for partitioner in Partitioner::ALL {
            for partitions in 1..100 {
                assert!(partitioner.partition_of(&id, partitions).0 < partitions);
            }
            assert_eq!(partitioner.partition_of(&id, 0), PartitionId(0));
        }
    }
}
