//! The effective values as a list: what each is, and where it came from. Secrets are masked before they get here.

use crate::config::Origin;
use crate::config::leaf::Slot;
use crate::config::section::{Draft, ISSUER, Section};
use crate::config::source::Origins;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key, such as `server.listen` or `issuer[0].name`.
    pub key: String,
    /// The value, masked if it is secret; empty text where nothing is set.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Every value. Displayed, it is one line per key that could stand in the file, with the origin behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Settings(pub Vec<Setting>);

impl Settings {
    /// Returns where the value of a key came from.
    pub fn origin(&self, key: &str) -> Origin {
        let found = self.0.iter().find(|setting| setting.key == key);
        found.map_or(Origin::Default, |setting| setting.origin.clone())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<(&str, String)> =
            self.0.iter().map(|setting| (setting.key.as_str(), toml_text(&setting.value))).collect();
        let key_width = rows.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
        // One long address shall not push every origin off the screen.
        let value_width = rows.iter().map(|(_, value)| value.chars().count().min(32)).max().unwrap_or(0);
        for (setting, (key, value)) in self.0.iter().zip(&rows) {
            writeln!(f, "{key:key_width$} = {value:value_width$}  # {}", setting.origin)?;
        }
        Ok(())
    }
}

/// Returns the value as it would stand in the file. Texts are quoted as in JSON, which TOML reads alike.
fn toml_text(value: &Value) -> String {
    let Value::Object(table) = value else { return value.to_string() };
    let entries: Vec<String> =
        table.iter().map(|(name, value)| format!("{} = {value}", Value::from(name.as_str()))).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

/// Lists the values of a draft.
pub(super) fn list(draft: &mut Draft, origins: &Origins) -> Settings {
    let setting = |key: String, slot: Box<dyn Slot + '_>| {
        let origin = origins.of(&key);
        slot.shown().map(|value| Setting { key, value, origin })
    };
    let mut settings = Vec::new();
    for key in Draft::keys() {
        let slot = draft.slot(&key).expect("every listed key has its place");
        settings.extend(setting(key, slot));
    }
    for (index, issuer) in draft.issuers.iter_mut().enumerate() {
        for name in issuer.names() {
            let slot = issuer.slot(name).expect("every listed name has its place");
            settings.extend(setting(format!("{ISSUER}[{index}].{name}"), slot));
        }
    }
    Settings(settings)
}
