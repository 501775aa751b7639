//! Texts of a status: short, bounded, and shared when they repeat.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::Deref;
use std::sync::Arc;

use arcstr::ArcStr;
use parking_lot::Mutex;

/// Maximum length of a message, in bytes. A longer one is cut after the last whole character.
pub const MESSAGE_BYTES: usize = 1024;

/// The message of a status. Cut to [`MESSAGE_BYTES`], cheap to clone.
///
/// The texts of a service repeat, across its workspaces and within one. Equal texts of up
/// to 128 bytes share their memory, so that 20 transitions of a million workspaces cost 20
/// texts, not 20 million. The most used texts, at most 4096, are never freed.
///
/// ```
/// use workspace_status::Message;
///
/// assert_eq!(&*Message::from("ok"), "ok");
/// assert_eq!(Message::from("x".repeat(5000)).len(), 1024);
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "String"))]
pub struct Message(ArcStr);

impl Message {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text of a `Display` value, written only as far as it is kept.
    pub(crate) fn from_display(shown: impl fmt::Display) -> Self {
        let mut bounded = Bounded(String::new());
        // If the `Display` fails, the text so far is kept: setting a status never fails.
        let _ = write!(bounded, "{shown}");
        Message::from(bounded.0.as_str())
    }
}

/// Collects a text up to the first write that passes the bound.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // A few bytes over (a character has up to 4), so that `cut` sees that there was more.
        let room = (MESSAGE_BYTES + 4).saturating_sub(self.0.len());
        self.0.push_str(cut_at(text, room));
        if room == 0 { Err(fmt::Error) } else { Ok(()) }
    }
}

fn cut_at(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

/// Longer texts are not looked up: they rarely repeat.
const SHARED_TEXT_BYTES: usize = 128;
/// Buckets of a thread's table, so that it holds at most 64 KiB of text.
const BUCKETS: usize = 128;
/// Texts of one bucket.
const WAYS: usize = 4;
/// After this many uses a text is kept for ever and no longer reference-counted.
const USES_TO_STAY: u8 = 16;
/// Number of texts that are kept for ever: at most 512 KiB.
const STAYING_TEXTS: usize = 4096;

/// The recent texts of one thread, by their hash. Texts that are used often stay longer
/// than others.
struct SharedTexts {
    hasher: foldhash::fast::RandomState,
    buckets: Box<[[CachedText; WAYS]]>,
}

#[derive(Clone, Default)]
struct CachedText {
    text: ArcStr,
    hash: u32,
    uses: u8,
}

thread_local! {
    static SHARED: RefCell<SharedTexts> = RefCell::new(SharedTexts {
        hasher: foldhash::fast::RandomState::default(),
        buckets: vec![<[CachedText; WAYS]>::default(); BUCKETS].into_boxed_slice(),
    });
}

/// The texts that are kept for ever, of all threads.
static STAYING: Mutex<BTreeSet<ArcStr>> = Mutex::new(BTreeSet::new());

impl SharedTexts {
    /// The bucket of a text, and the part of its hash that distinguishes it there.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn place_of(&self, text: &str) -> (usize, u32) {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text.as_bytes());
        let hash = hasher.finish();
        ((hash >> 32) as usize % BUCKETS, hash as u32)
    }

    fn get(&mut self, text: &str) -> ArcStr {
        let (bucket, hash) = self.place_of(text);
        let Some(bucket) = self.buckets.get_mut(bucket) else {
            return ArcStr::from(text);
        };
        let held = |slot: &&mut CachedText| slot.hash == hash && slot.text == text;
        if let Some(slot) = bucket.iter_mut().find(held) {
            slot.uses = slot.uses.saturating_add(1);
            if slot.uses == USES_TO_STAY {
                slot.text = staying(&slot.text);
            }
            return slot.text.clone();
        }
        let made = ArcStr::from(text);
        // An empty slot first: two new texts must not replace each other in turns.
        let worth = |slot: &&mut CachedText| (slot.uses, !slot.text.is_empty());
        if let Some(slot) = bucket.iter_mut().min_by_key(worth)
            && slot.uses == 0
        {
            (slot.text, slot.hash) = (made.clone(), hash);
        } else {
            for slot in bucket {
                slot.uses /= 2;
            }
        }
        made
    }
}

/// The same text in memory that is never freed, while there is room.
fn staying(text: &ArcStr) -> ArcStr {
    let mut staying = STAYING.lock();
    if let Some(held) = staying.get(text.as_str()) {
        return held.clone();
    }
    if staying.len() >= STAYING_TEXTS {
        return text.clone();
    }
    // A new allocation, because a text that others hold stays reference-counted.
    let made = ArcStr::from(text.as_str());
    made.leak();
    staying.insert(made.clone());
    made
}

/// The text in shared memory if it is short and this thread has seen it recently.
pub(crate) fn shared(text: &str) -> ArcStr {
    if text.is_empty() {
        return ArcStr::new();
    }
    if text.len() > SHARED_TEXT_BYTES {
        return ArcStr::from(text);
    }
    // The table does not exist any more while its thread ends.
    SHARED
        .try_with(|shared| shared.borrow_mut().get(text))
        .unwrap_or_else(|_| ArcStr::from(text))
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Message(shared(cut_at(text, MESSAGE_BYTES)))
    }
}

impl From<&String> for Message {
    fn from(text: &String) -> Self {
        Message::from(text.as_str())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Message::from(text.as_str())
    }
}

impl From<Box<str>> for Message {
    fn from(text: Box<str>) -> Self {
        Message::from(&*text)
    }
}

impl From<Cow<'_, str>> for Message {
    fn from(text: Cow<'_, str>) -> Self {
        Message::from(&*text)
    }
}

impl From<Arc<str>> for Message {
    fn from(text: Arc<str>) -> Self {
        Message::from(&*text)
    }
}

impl From<fmt::Arguments<'_>> for Message {
    fn from(text: fmt::Arguments<'_>) -> Self {
        text.as_str()
            .map_or_else(|| Message::from_display(text), Message::from)
    }
}

impl From<&Message> for Message {
    fn from(message: &Message) -> Self {
        message.clone()
    }
}

impl Deref for Message {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Message {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq<str> for Message {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Message {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_whole_character() {
        let message = Message::from("ä".repeat(2000));
        assert_eq!(message.len(), 1024);
        let odd = Message::from(format!("x{}", "ä".repeat(2000)));
        assert_eq!(odd.len(), 1023);
        let shown = Message::from_display("é".repeat(5000));
        assert_eq!(shown.as_str(), "é".repeat(512));
    }

    #[test]
    fn equal_texts_share_their_memory() {
        let first = Message::from("replaying");
        let second = Message::from(String::from("replaying"));
        assert!(ArcStr::ptr_eq(&first.0, &second.0));
    }

    #[test]
    fn few_texts_that_take_turns_all_share_their_memory() {
        // A thread of its own has an empty table.
        let turns = std::thread::spawn(|| {
            // Enough that some fall into one bucket, whatever the seed of the hashes.
            let texts: Vec<String> = (0..64).map(|n| format!("in turns {n}")).collect();
            let bucket = |text: &String| SHARED.with(|shared| shared.borrow().place_of(text).0);
            let mut buckets = [0; BUCKETS];
            for text in &texts {
                buckets[bucket(text)] += 1;
            }
            let fit = texts.iter().filter(|text| buckets[bucket(text)] <= WAYS);
            let round = || fit.clone().map(|text| Message::from(text.as_str()));
            let first: Vec<Message> = round().collect();
            for (first, again) in first.iter().zip(round()) {
                assert!(ArcStr::ptr_eq(&first.0, &again.0), "{first}");
            }
        });
        turns.join().expect("all of them");
    }

    #[test]
    fn a_stream_of_other_texts_does_not_push_out_what_repeats() {
        for _ in 0..USES_TO_STAY {
            let _ = Message::from("stays");
        }
        let first = Message::from("stays");
        let mut same = 0;
        for n in 0..20_000 {
            let _ = Message::from(format!("distinct {n}"));
            same += i32::from(ArcStr::ptr_eq(&first.0, &Message::from("stays").0));
        }
        assert_eq!(same, 20_000);
    }

    #[test]
    fn a_display_that_fails_leaves_what_it_wrote() {
        struct Failing;
        impl fmt::Display for Failing {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("half")?;
                Err(fmt::Error)
            }
        }
        assert_eq!(Message::from_display(Failing), "half");
    }
}
