//! Generated events, the same ones each time.

use serde_json::json;
use std::io::{self, BufWriter, Write};

const WORKSPACES: usize = 12;
const EVENTS: usize = 6_000;
const RESOURCES: usize = 200;
const COLOURS: [&str; 4] = ["red", "green", "blue", "grey"];
/// 2024-01-01T00:00:00Z.
const BEGINNING_MS: usize = 1_704_067_200_000;

/// Writes the events, one per line.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut out = BufWriter::new(out);
    for number in 0..EVENTS {
        let workspace = random.usize(..WORKSPACES);
        let resource = random.usize(..RESOURCES);
        let event_type = match random.u8(..10) {
            0 => "resource.deleted",
            1..4 => "resource.created",
            _ => "resource.updated",
        };
        let event = json!({
            "eventType": event_type,
            "workspaceId": format!("demo-{workspace:02}"),
            "timestamp": BEGINNING_MS + number * 1_000,
            "data": {
                "id": format!("resource-{resource:03}"),
                "colour": random.choice(COLOURS),
                "revision": number,
            },
        });
        writeln!(out, "{event}")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use workspace_engine_core::event::EventEnvelope;

    #[test]
    fn the_events_are_valid_and_the_same_each_time() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        write(&mut one).unwrap();
        write(&mut other).unwrap();
        assert_eq!(one, other);
        let workspaces: HashSet<_> = one
            .trim_ascii_end()
            .split(|byte| *byte == b'\n')
            .map(|line| EventEnvelope::parse(line).unwrap().workspace_id)
            .collect();
        assert_eq!(workspaces.len(), WORKSPACES);
    }
}
