//! The flags that select workspaces, for `list` and for the actions on many.

use clap::Args;
use serde_json::{Map, Value};
use workspace_status::{ErrorCategory, State};

#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only workspaces in one of these states
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<State>,
    /// Only workspaces that are healthy, or that are not
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    healthy: Option<bool>,
    /// Only workspaces whose id begins so
    #[arg(long)]
    prefix: Option<String>,
    /// Only workspaces whose id or message contains this text
    #[arg(long, value_name = "TEXT")]
    q: Option<String>,
    /// Only workspaces of one of these partitions
    #[arg(long, value_name = "N", value_delimiter = ',')]
    partition: Vec<u32>,
    /// Only workspaces of one of these owners
    #[arg(long, value_name = "OWNER", value_delimiter = ',')]
    owner: Vec<String>,
    /// Only workspaces with an error of one of these kinds: `retrying` or `parked`
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = error_kind)]
    error_kind: Vec<ErrorCategory>,
}

fn error_kind(text: &str) -> Result<ErrorCategory, String> {
    ErrorCategory::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| "the kinds are `retrying` and `parked`".to_owned())
}

impl Filter {
    /// Whether no condition is given: all workspaces match.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }

    /// The conditions as query parameters.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        pairs.extend(self.state.iter().map(|state| ("state", state.to_string())));
        pairs.extend(self.healthy.map(|healthy| ("healthy", healthy.to_string())));
        pairs.extend(self.prefix.clone().map(|prefix| ("prefix", prefix)));
        pairs.extend(self.q.clone().map(|text| ("q", text)));
        pairs.extend(
            self.partition
                .iter()
                .map(|number| ("partition", number.to_string())),
        );
        pairs.extend(self.owner.iter().map(|owner| ("owner", owner.clone())));
        let kinds = self.error_kind.iter().map(|kind| kind.as_str().to_owned());
        pairs.extend(kinds.map(|kind| ("errorKind", kind)));
        pairs
    }

    /// The conditions as the members of a JSON object.
    pub(super) fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for (name, value) in self.pairs() {
            let values = object
                .entry(name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(values) = values {
                values.push(value.into());
            }
        }
        object
    }
}
