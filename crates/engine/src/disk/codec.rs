//! Encodes small values with a checksum: each is decoded as it was written, or the damage is detected.
//!
//! Numbers are little endian, texts are preceded by their length, and a CRC-32 over the key and the value ends each. A
//! value that was damaged, cut short or stored under another key does not open.

use bytes::{Buf, Bytes};

/// Bytes of the checksum at the end of a sealed value.
pub(crate) const CHECKSUM_BYTES: usize = 4;

/// What is wrong with a value, as text for an error message.
pub(crate) type Damage = &'static str;

/// Collects the fields of one value.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
        }
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self
    }

    /// Bytes, preceded by their length.
    pub(crate) fn block(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX))
            .raw(value)
    }

    pub(crate) fn optional_block(&mut self, value: Option<&[u8]>) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => self.u8(1).block(value),
        }
    }

    pub(crate) fn optional_u64(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => self.u8(1).u64(value),
        }
    }

    /// Ends the value with the checksum over `key` and itself.
    pub(crate) fn seal(&mut self, key: &[u8]) -> Vec<u8> {
        let checksum = checksum(key, &self.bytes);
        self.u32(checksum);
        std::mem::take(&mut self.bytes)
    }
}

/// Reads the fields of one value, in the order in which they were written.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Opens a sealed value that was stored under `key`.
    pub(crate) fn open(key: &[u8], sealed: Bytes) -> Result<Self, Damage> {
        let mut bytes = sealed;
        let Some((body, stored)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err("it is too short");
        };
        if u32::from_le_bytes(*stored) != checksum(key, body) {
            return Err("its checksum does not match");
        }
        // Cut in place: this runs for every entry of a load, and a split updates a reference count.
        bytes.truncate(body.len());
        Ok(Self { bytes })
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        self.bytes.try_get_u8().map_err(|_| SHORT)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        self.bytes.try_get_u32_le().map_err(|_| SHORT)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        self.bytes.try_get_u64_le().map_err(|_| SHORT)
    }

    /// The next `length` bytes, without a copy.
    pub(crate) fn raw(&mut self, length: usize) -> Result<Bytes, Damage> {
        if length > self.bytes.len() {
            return Err(SHORT);
        }
        Ok(self.bytes.split_to(length))
    }

    /// The remaining bytes, without a copy.
    pub(crate) fn rest(self) -> Bytes {
        self.bytes
    }

    pub(crate) fn block(&mut self) -> Result<Bytes, Damage> {
        let length = self.u32()?;
        self.raw(usize::try_from(length).unwrap_or(usize::MAX))
    }

    pub(crate) fn text(&mut self) -> Result<String, Damage> {
        String::from_utf8(self.block()?.into()).map_err(|_| "a text in it is not UTF-8")
    }

    pub(crate) fn optional_block(&mut self) -> Result<Option<Bytes>, Damage> {
        match self.u8()? {
            0 => Ok(None),
            _ => self.block().map(Some),
        }
    }

    pub(crate) fn optional_u64(&mut self) -> Result<Option<u64>, Damage> {
        match self.u8()? {
            0 => Ok(None),
            _ => self.u64().map(Some),
        }
    }
}

const SHORT: Damage = "it ends too early";

/// CRC-32 over the key and the value.
pub(crate) fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        Writer::default()
            .u8(7)
            .u32(8)
            .u64(9)
            .block(b"ten")
            .optional_u64(None)
            .optional_block(Some(b"x"))
            .seal(b"key")
    }

    #[test]
    fn a_value_reads_as_it_was_written() {
        let mut reader = Reader::open(b"key", sealed().into()).expect("intact");
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.u32(), Ok(8));
        assert_eq!(reader.u64(), Ok(9));
        assert_eq!(reader.text().as_deref(), Ok("ten"));
        assert_eq!(reader.optional_u64(), Ok(None));
        assert_eq!(
            reader.optional_block().map(|b| b.map(|b| b.to_vec())),
            Ok(Some(b"x".to_vec()))
        );
        assert_eq!(reader.u8(), Err(SHORT));
    }

    #[test]
    fn any_flipped_bit_any_cut_and_any_other_key_is_noticed() {
        let intact = sealed();
        assert!(Reader::open(b"kez", intact.clone().into()).is_err());
        for length in 0..intact.len() {
            assert!(
                Reader::open(b"key", intact[..length].to_vec().into()).is_err(),
                "cut at {length}"
            );
        }
        for bit in 0..intact.len() * 8 {
            let mut damaged = intact.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Reader::open(b"key", damaged.into()).is_err(), "bit {bit}");
        }
    }
}
