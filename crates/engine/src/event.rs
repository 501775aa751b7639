//! The event envelope: the value of a record, and what is checked before an append.

mod scan;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;
use workspace_lifecycle::Offset;
use workspace_status::{InvalidWorkspaceId, WorkspaceId};

use scan::{Scanned, scan};

/// Most bytes of one event's JSON.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Most bytes of an event type, an entity's type or an entity's id.
pub const MAX_NAME_BYTES: usize = 4096;

/// Why a text is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or not the shape of an event.
    #[error("not an event: {0}")]
    Malformed(String),
    /// The workspace's id is not valid.
    #[error("workspaceId: {0}")]
    WorkspaceId(InvalidWorkspaceId),
    /// A field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A text is empty or too long.
    #[error("{field} has {bytes} bytes, 1 to {MAX_NAME_BYTES} are allowed")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The event is larger than any event may be.
    #[error("the event has {bytes} bytes, {MAX_EVENT_BYTES} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The type is not one that the engine knows.
    #[error(
        "eventType {0:?} is not known: <type>.created, <type>.updated, <type>.deleted, workspace.save or workspace.tick"
    )]
    UnknownType(String),
    /// The record's key and its value name different workspaces.
    #[error("the record's key is {key:?}, but its workspaceId is {workspace_id:?}")]
    KeyMismatch {
        /// The key.
        key: String,
        /// The event's workspace.
        workspace_id: String,
    },
    /// A tombstone: a record without a value.
    #[error("the record has no value")]
    NoValue,
}

/// A string that is borrowed from the JSON unless it holds escapes. (An `Option<Cow<str>>` is never borrowed.)
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;

        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrowing)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    event_type: Option<Text<'a>>,
    #[serde(borrow)]
    workspace_id: Option<Text<'a>>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct DataId<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
}

/// An event that is not in a log yet.
#[derive(Debug)]
pub struct EventEnvelope<'a> {
    /// The workspace that the event belongs to.
    pub workspace_id: WorkspaceId,
    /// The event, for its workspace type to check; its offset is 0.
    pub event: Event<'a>,
}

impl<'a> EventEnvelope<'a> {
    /// Checks that `json` is one event with a valid workspace id and a type.
    /// [`Workspace::check`](crate::Workspace::check) decides whether the workspace can apply it.
    ///
    /// # Errors
    /// [`EventError`] says which field is wrong.
    pub fn parse(json: &'a [u8]) -> Result<Self, EventError> {
        let decoded = DecodedEvent::parse(json)?;
        let workspace_id =
            WorkspaceId::new(&decoded.workspace_id).map_err(EventError::WorkspaceId)?;
        let event = Event::new(Offset::ZERO, decoded)?;
        check_length("eventType", event.event_type())?;
        Ok(Self {
            workspace_id,
            event,
        })
    }
}

/// The fields of an event's JSON, from either parser.
#[derive(Debug, PartialEq, Eq)]
struct DecodedEvent<'a> {
    event_type: Option<Cow<'a, str>>,
    workspace_id: Cow<'a, str>,
    timestamp_ms: Option<i64>,
    data: Option<&'a str>,
    /// `data.id`, if the parser has read it already.
    data_id: Option<&'a str>,
}

impl<'a> DecodedEvent<'a> {
    fn parse(json: &'a [u8]) -> Result<Self, EventError> {
        if json.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLarge { bytes: json.len() });
        }
        match scan(json) {
            Some(Scanned {
                workspace_id: Some(workspace_id),
                event_type,
                timestamp_ms,
                data,
                data_id,
            }) => Ok(Self {
                event_type: event_type.map(Cow::Borrowed),
                workspace_id: Cow::Borrowed(workspace_id),
                timestamp_ms,
                data,
                data_id,
            }),
            _ => Self::parse_any(json),
        }
    }

    /// The general parser: parses any event, or returns the error.
    fn parse_any(json: &'a [u8]) -> Result<Self, EventError> {
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(EventError::Malformed("expected a JSON object".to_owned()));
        }
        let wire: Wire<'_> = serde_json::from_slice(json)
            .map_err(|error| EventError::Malformed(error.to_string()))?;
        let Text(workspace_id) = wire
            .workspace_id
            .ok_or(EventError::Missing("workspaceId"))?;
        Ok(Self {
            event_type: wire.event_type.map(|Text(event_type)| event_type),
            workspace_id,
            timestamp_ms: wire.timestamp,
            data: wire.data.map(RawValue::get),
            data_id: None,
        })
    }
}

fn check_length(field: &'static str, text: &str) -> Result<(), EventError> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(EventError::Length {
            field,
            bytes: text.len(),
        });
    }
    Ok(())
}

/// An event as a workspace applies it.
#[derive(Debug)]
pub struct Event<'a> {
    offset: Offset,
    event_type: Cow<'a, str>,
    timestamp_ms: Option<i64>,
    data: Option<&'a str>,
    data_id: Option<&'a str>,
}

/// What the built-in entities do with an event.
#[derive(Debug, PartialEq, Eq)]
pub enum EntityEvent<'a> {
    /// The entity is now `data`.
    Set {
        /// Type of the entity.
        kind: &'a str,
        /// Its id.
        id: Cow<'a, str>,
        /// Its value: raw JSON, unchanged.
        data: &'a str,
    },
    /// The entity was deleted.
    Unset {
        /// Type of the entity.
        kind: &'a str,
        /// Its id.
        id: Cow<'a, str>,
    },
}

impl<'a> Event<'a> {
    /// Parses the value of the record at `offset`, whose key is `key`.
    ///
    /// # Errors
    /// [`EventError`] says what is wrong with it.
    pub fn parse(offset: Offset, key: &str, value: Option<&'a [u8]>) -> Result<Self, EventError> {
        let decoded = DecodedEvent::parse(value.ok_or(EventError::NoValue)?)?;
        if decoded.workspace_id != key {
            return Err(EventError::KeyMismatch {
                key: key.to_owned(),
                workspace_id: decoded.workspace_id.into_owned(),
            });
        }
        Self::new(offset, decoded)
    }

    fn new(offset: Offset, decoded: DecodedEvent<'a>) -> Result<Self, EventError> {
        Ok(Self {
            offset,
            event_type: decoded.event_type.ok_or(EventError::Missing("eventType"))?,
            timestamp_ms: decoded.timestamp_ms,
            data: decoded.data,
            data_id: decoded.data_id,
        })
    }

    /// Its offset in its partition.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Its type, such as `resource.updated`.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Time of the event by its producer, in milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp_ms
    }

    /// Its data as raw JSON.
    pub fn data(&self) -> Option<&'a str> {
        self.data
    }

    /// What it does to an entity.
    ///
    /// # Errors
    /// The type is not known, or `data.id` is missing or not a string of 1 to [`MAX_NAME_BYTES`] bytes.
    pub fn entity(&self) -> Result<EntityEvent<'_>, EventError> {
        let unknown = || EventError::UnknownType(self.event_type.clone().into_owned());
        let (kind, verb) = self.event_type.rsplit_once('.').ok_or_else(unknown)?;
        if kind.is_empty() || !matches!(verb, "created" | "updated" | "deleted") {
            return Err(unknown());
        }
        check_length("eventType", kind)?;
        let data = self.data().ok_or(EventError::Missing("data"))?;
        let id = match self.data_id {
            Some(id) => Cow::Borrowed(id),
            None => id_in(data)?,
        };
        check_length("data.id", &id)?;
        Ok(if verb == "deleted" {
            EntityEvent::Unset { kind, id }
        } else {
            EntityEvent::Set { kind, id, data }
        })
    }
}

fn id_in(data: &str) -> Result<Cow<'_, str>, EventError> {
    if !data.starts_with('{') {
        return Err(EventError::Malformed("data: expected an object".to_owned()));
    }
    let DataId { id } = serde_json::from_str(data)
        .map_err(|error| EventError::Malformed(format!("data: {error}")))?;
    let Text(id) = id.ok_or(EventError::Missing("data.id"))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::testing::seed;

    /// Events and near misses: parts of JSON in any order, also cut, and with stray bytes.
    fn nearly_events() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            8 => prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", " ", "\n", "\"", "\\", "\\u00e4", "0", "-1", "1.5", "-0", "2e9", "null", "true",
                "false", "\"id\":", "\"id\":\"a\"", "\"a/b\"", "\"x\":[1,{\"y\":\"\\n\"}]", "\"eventType\":\"a.created\"",
                "\"workspaceId\":\"w\"", "\"timestamp\":7", "\"data\":{\"id\":\"é\"}", "\"data\":{\"id\":\"a\",\"v\":1}",
                "\"data\":{}", "\"other\":\"\\\"}\"",
            ])
            .prop_map(|part| part.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..3),
        ];
        let parts = prop::collection::vec(part, 0..8);
        (
            parts,
            any::<bool>(),
            prop::option::weighted(0.2, 0_usize..200),
        )
            .prop_map(|(parts, whole, cut)| {
                let mut json = if whole {
                    let fields = [&br#""workspaceId":"w""#[..]]
                        .into_iter()
                        .chain(parts.iter().map(Vec::as_slice));
                    let fields: Vec<_> = fields.collect();
                    [b"{".as_slice(), &fields.join(&b','), b"}"].concat()
                } else {
                    parts.concat()
                };
                if let Some(cut) = cut {
                    json.truncate(cut);
                }
                json
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(seed()), ..ProptestConfig::with_cases(4096) })]

        #[test]
        fn an_event_reads_the_same_whichever_way(json in nearly_events()) {
            if let Some(Scanned { workspace_id: Some(_), data, data_id, .. }) = scan(&json) {
                let quick = DecodedEvent::parse(&json).unwrap();
                let general = DecodedEvent::parse_any(&json);
                prop_assert_eq!(general, Ok(DecodedEvent { data_id: None, ..quick }));
                if let (Some(data), Some(id)) = (data, data_id) {
                    prop_assert_eq!(id_in(data), Ok(Cow::Borrowed(id)));
                }
            }
        }
    }

    #[test]
    fn an_event_is_refused_with_what_is_wrong() {
        let long = format!(
            r#"{{"eventType":"a.created","workspaceId":"{}"}}"#,
            "x".repeat(256)
        );
        for (json, expected) in [
            ("nonsense", "not an event: expected a JSON object"),
            ("[1]", "not an event: expected a JSON object"),
            (r#"{"eventType":"a.created"}"#, "workspaceId is missing"),
            (r#"{"workspaceId":"w"}"#, "eventType is missing"),
            (
                r#"{"workspaceId":"w","eventType":""}"#,
                "eventType has 0 bytes",
            ),
            (
                r#"{"workspaceId":7,"eventType":"a.created"}"#,
                "not an event: invalid type",
            ),
            (
                r#"{"workspaceId":"w","eventType":"a.created""#,
                "not an event: EOF",
            ),
            (
                r#"{"workspaceId":"w","eventType":"a.created"} x"#,
                "not an event: trailing",
            ),
            (
                r#"{"workspaceId":"a b","eventType":"a.created"}"#,
                "workspaceId: ",
            ),
            (&long, "workspaceId: "),
        ] {
            let error = EventEnvelope::parse(json.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn an_event_says_what_it_does_to_an_entity() {
        let check = |json: &str, expected: Result<EntityEvent<'_>, &str>| {
            let event = Event::parse(Offset(3), "w", Some(json.as_bytes())).unwrap();
            assert_eq!(
                event.entity().map_err(|error| error.to_string()),
                expected.map_err(str::to_owned),
                "{json}"
            );
        };
        check(
            r#"{"eventType":"resource.created","workspaceId":"w","timestamp":1,"data":{"id":"a/b","x":[1, 2]}}"#,
            Ok(EntityEvent::Set {
                kind: "resource",
                id: "a/b".into(),
                data: r#"{"id":"a/b","x":[1, 2]}"#,
            }),
        );
        check(
            r#"{"eventType":"a.b.deleted","workspaceId":"w","data":{"id":"\u0041"}}"#,
            Ok(EntityEvent::Unset {
                kind: "a.b",
                id: "A".into(),
            }),
        );
        check(
            r#"{"eventType":"resource.updated","workspaceId":"w","data":{}}"#,
            Err("data.id is missing"),
        );
        check(
            r#"{"eventType":"resource.updated","workspaceId":"w","data":["a"]}"#,
            Err("not an event: data: expected an object"),
        );
        check(
            r#"{"eventType":"resource.updated","workspaceId":"w"}"#,
            Err("data is missing"),
        );
        check(
            r#"{"eventType":"resource.moved","workspaceId":"w"}"#,
            Err(
                "eventType \"resource.moved\" is not known: <type>.created, <type>.updated, \
                 <type>.deleted, workspace.save or workspace.tick",
            ),
        );
    }

    #[test]
    fn a_record_of_another_key_is_not_applied() {
        let json = br#"{"eventType":"a.created","workspaceId":"w"}"#;
        let error = Event::parse(Offset(0), "v", Some(json)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the record's key is \"v\", but its workspaceId is \"w\""
        );
    }
}
