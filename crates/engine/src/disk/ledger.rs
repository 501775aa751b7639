//! The ledger: the number of acknowledged commits, and the end of each partition as of the last one.
//!
//! It is written in the same batch as the data that it counts, and copied to the witness file afterwards.

use super::codec::{Damage, Reader, Writer};
use super::error::{Loss, LostRange};
use bytes::Bytes;
use workspace_lifecycle::{Offset, PartitionId};

/// Key of the ledger. The scan of the journals recognises the ledger by it, so no other key may be equal to it.
pub(crate) const LEDGER_KEY: &[u8] = b"workspace-engine/ledger";

/// Number of the last durable commit, and the ends of all partitions as of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) commit: u64,
    pub(crate) high_watermarks: Vec<Offset>,
}

impl Ledger {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            commit: 0,
            high_watermarks: (0..partitions).map(|_| Offset::ZERO).collect(),
        }
    }

    /// The ledger after one more commit.
    pub(crate) fn advanced(&self, ends: &[(PartitionId, Offset)]) -> Self {
        let mut next = self.clone();
        next.commit += 1;
        for (partition, end) in ends {
            let place = usize::try_from(partition.0)
                .ok()
                .and_then(|p| next.high_watermarks.get_mut(p));
            if let Some(place) = place {
                *place = *end;
            }
        }
        next
    }

    pub(crate) fn high_watermark(&self, partition: PartitionId) -> Offset {
        let place = usize::try_from(partition.0)
            .ok()
            .and_then(|p| self.high_watermarks.get(p));
        place.copied().unwrap_or_default()
    }

    /// The ends that are further in `other` than here.
    pub(crate) fn further_ends(&self, other: &Self) -> Vec<(PartitionId, Offset)> {
        (0..)
            .map(PartitionId)
            .zip(&other.high_watermarks)
            .filter(|(partition, end)| self.high_watermark(*partition) < **end)
            .map(|(partition, end)| (partition, *end))
            .collect()
    }

    /// What is missing here of what was acknowledged according to `witness`; `None` if nothing is.
    pub(crate) fn loss(&self, witness: &Self) -> Option<Loss> {
        let partitions: Vec<LostRange> = (0..)
            .zip(&witness.high_watermarks)
            .map(|(partition, acknowledged)| LostRange {
                partition: PartitionId(partition),
                found: self.high_watermark(PartitionId(partition)),
                acknowledged: *acknowledged,
            })
            .filter(|range| range.found < range.acknowledged)
            .collect();
        (self.commit < witness.commit || !partitions.is_empty()).then_some(Loss {
            found_commit: self.commit,
            acknowledged_commit: witness.commit,
            partitions,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(encoded_bytes(self.high_watermarks.len()));
        writer
            .u64(self.commit)
            .u32(u32::try_from(self.high_watermarks.len()).unwrap_or(u32::MAX));
        for end in &self.high_watermarks {
            writer.u64(end.0);
        }
        writer.seal(LEDGER_KEY)
    }

    pub(crate) fn decode(sealed: Bytes) -> Result<Self, Damage> {
        let mut reader = Reader::open(LEDGER_KEY, sealed)?;
        let commit = reader.u64()?;
        let partitions = reader.u32()?;
        let high_watermarks = (0..partitions)
            .map(|_| reader.u64().map(Offset))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            commit,
            high_watermarks,
        })
    }
}

/// Size of an encoded ledger for this number of partitions.
pub(crate) fn encoded_bytes(partitions: usize) -> usize {
    8 + 4 + partitions * 8 + super::codec::CHECKSUM_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_reads_as_it_was_written() {
        let ledger = Ledger::new(3)
            .advanced(&[(PartitionId(1), Offset(7))])
            .advanced(&[(PartitionId(2), Offset(9))]);
        let encoded = ledger.encode();
        assert_eq!(encoded.len(), encoded_bytes(3));
        assert_eq!(Ledger::decode(encoded.into()), Ok(ledger));
    }

    #[test]
    fn a_loss_names_every_partition_that_ends_too_early() {
        let found = Ledger {
            commit: 4,
            high_watermarks: vec![Offset(10), Offset(20)],
        };
        assert_eq!(found.loss(&found), None);
        assert_eq!(
            found.loss(&Ledger {
                commit: 3,
                high_watermarks: vec![Offset(9), Offset(20)]
            }),
            None
        );
        let loss = found
            .loss(&Ledger {
                commit: 6,
                high_watermarks: vec![Offset(10), Offset(25)],
            })
            .expect("a loss");
        assert_eq!(
            loss.to_string(),
            "it holds 4 of 6 commits, partition 1 ends at offset 20 and not at 25"
        );
    }
}
