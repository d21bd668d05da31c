//! Elements as keys.

use serde_json::Value;

/// Equal for equal elements: the JSON text with keys in order. Elements of the bench's own clients are strings and
/// integers, of which a node in any language keeps the text.
pub fn key(element: &Value) -> String {
    element.to_string()
}
