//! One text a value, the limits, and texts of all kinds.

use proptest::prelude::*;

use super::*;

fn text(json: &str) -> Result<String, CanonicalError> {
    canonical(json, &Limits::default()).map(|element| element.as_str().to_owned())
}

#[test]
fn one_text_a_value() {
    let same = [
        (r#""apple""#, r#" "\u0061pple" "#),
        (r#""a/b\"\\""#, r#""a\/b\u0022\u005C""#),
        (r#""\b\f\n\r\t\u0000\u001f""#, r#""\u0008\u000C\u000a\u000d\u0009\u0000\u001F""#),
        ("\"\u{7f}\u{2028}é😀\"", r#""\u007f\u2028\u00e9\ud83d\ude00""#),
        (r#"{"a":1,"b":{"c":[],"d":{}}}"#, "{ \"b\" : {\"d\":{ },\"c\":[ ]}, \t\r\n\"a\":1}"),
        ("[1,1.0,1e0,-0,1E+5,true,false,null]", " [ 1, 1.0 ,1e0,-0,1E+5 , true,false ,null ] "),
        (r#"{"\n":1,"a":2}"#, r#"{"a":2,"\u000a":1}"#),
    ];
    for (canonical, other) in same {
        assert_eq!(text(other).as_deref(), Ok(canonical));
        assert_eq!(text(canonical).as_deref(), Ok(canonical));
    }
}

#[test]
fn members_are_sorted_by_the_canonical_bytes_between_their_quotes() {
    assert_eq!(text(r#"{"a!":1,"a":2,"a b":3,"":4}"#).unwrap(), r#"{"":4,"a":2,"a b":3,"a!":1}"#);
    assert_eq!(text(r#"{"a":2,"\n":1,"Z":3}"#).unwrap(), r#"{"Z":3,"\n":1,"a":2}"#);
}

#[test]
fn what_is_no_element_is_refused() {
    use CanonicalError::*;
    for bad in
        ["", " ", "01", "-", "1.", ".1", "1e", "1e+", "+1", "1 2", "nul", "[1,]", "[1 2]", "[", "{", "\"", "{1:2}"]
    {
        assert!(matches!(text(bad), Err(Syntax(_))), "{bad}");
    }
    for bad in [r#""\x""#, r#""\u12""#, r#""\u12g4""#, "\"\n\"", "\"a\"b\"", r#"{"a"}"#, r#"{"a":1,}"#, "\\", "NaN"] {
        assert!(matches!(text(bad), Err(Syntax(_))), "{bad}");
    }
    for bad in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800\n""#, r#""\udc00\ud800""#] {
        assert!(matches!(text(bad), Err(LoneSurrogate(_))), "{bad}");
    }
    assert_eq!(text(r#"{"a":1,"b":2,"\u0061":3}"#), Err(DuplicateKey));
    assert_eq!(text(r#"[{"a":1,"a":1}]"#), Err(DuplicateKey));
}

#[test]
fn the_limits_are_exact() {
    use CanonicalError::*;
    let string = |n: usize| format!("\"{}\"", "x".repeat(n));
    assert!(text(&string(65_534)).is_ok());
    assert_eq!(text(&string(65_535)), Err(TooLong(65_536)));
    assert!(text(&format!("\"{}\"", "\\u0078".repeat(65_534))).is_ok(), "it is the canonical text that counts");
    assert_eq!(text(&format!("\"{}\"", "\\u0078".repeat(65_535))), Err(TooLong(65_536)));
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(text(&nested(128)).is_ok());
    assert_eq!(text(&nested(129)), Err(TooDeep(128)));
    assert_eq!(text(&"[".repeat(1 << 20)), Err(TooDeep(128)));
    assert_eq!(text(&"{\"a\":".repeat(1 << 20)), Err(TooDeep(128)));
    for number in ["9".repeat(1_000), format!("-{}", "9".repeat(999)), format!("0.{}", "9".repeat(998))] {
        assert_eq!(text(&number).as_ref(), Ok(&number));
        assert_eq!(text(&format!("{number}9")), Err(LongNumber(1_000)));
    }
    let key = |key: &str, n: usize| format!("{{\"{}\":1}}", key.repeat(n));
    assert!(text(&key("x", 50_000)).is_ok());
    assert_eq!(text(&key("x", 50_001)), Err(LongKey(50_000)));
    let wide = Limits { max_element_bytes: 1 << 20, ..Limits::default() };
    for (char, units) in [("é", 1), ("😀", 2), ("\\n", 1), ("\\u0001", 1), ("\\\\", 1)] {
        assert!(canonical(&key(char, 50_000 / units), &wide).is_ok(), "{char}");
        assert_eq!(canonical(&key(char, 50_000 / units + 1), &wide), Err(LongKey(50_000)), "{char}");
    }
}

#[test]
fn an_echo_is_held_to_the_limits_that_maelstrom_has() {
    use CanonicalError::*;
    let check = |json: &str| check_limits(json, &Limits::default());
    assert_eq!(check(&format!("{}1{}", "[".repeat(128), "]".repeat(128))), Ok(()));
    assert_eq!(check(&format!("{}1{}", "[".repeat(129), "]".repeat(129))), Err(TooDeep(128)));
    assert_eq!(check(&format!("[{}]", "[],{},".repeat(500))), Ok(()), "side by side is not deep");
    assert_eq!(check(&"1".repeat(1_001)), Err(LongNumber(1_000)));
    assert_eq!(check(&format!("{{\"{}\" : 1}}", "k".repeat(50_001))), Err(LongKey(50_000)));
    let quoted = format!("\"\\\"{}{}\"", "[".repeat(200), "1".repeat(60_000));
    assert_eq!(check(&quoted), Ok(()), "what is inside a string is text");
    for odd in ["", "\"", "\"\\", "\\", "-", "]]"] {
        let _ = check(odd);
    }
}

/// A JSON value with distinct keys, from which texts are written.
#[derive(Clone, Debug)]
enum Json {
    Raw(&'static str),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn json() -> impl Strategy<Value = Json> {
    let raw =
        proptest::sample::select(vec!["0", "-0", "1", "1.0", "1e0", "1E-7", "12345678901234567890123", "true", "null"]);
    let leaf = prop_oneof![raw.prop_map(Json::Raw), any::<String>().prop_map(Json::String)];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// Writes `json` in a style that `choices` decide: white space, order of members, escapes.
fn write(json: &Json, choices: &mut impl Iterator<Item = u8>, out: &mut String) {
    let mut choose = |n: u8| choices.next().unwrap_or(0) % n;
    let space = ["", " ", "\t", "\r\n "][usize::from(choose(4))];
    out.push_str(space);
    match json {
        Json::Raw(text) => out.push_str(text),
        Json::String(text) => write_string(text, choose(2) == 0, out),
        Json::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                write(item, choices, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            if !members.is_empty() {
                let by = usize::from(choose(8)) % members.len();
                members.rotate_left(by);
            }
            let escape = choose(2) == 0;
            out.push('{');
            for (n, (key, value)) in members.into_iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                out.push_str(space);
                write_string(key, escape, out);
                out.push_str(space);
                out.push(':');
                write(value, choices, out);
            }
            out.push('}');
        }
    }
    out.push_str(space);
}

fn write_string(text: &str, escape_all: bool, out: &mut String) {
    if escape_all {
        out.push('"');
        text.encode_utf16().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text).unwrap());
    }
}

/// Every text of up to 6 of the characters that numbers are made of.
#[test]
fn what_a_number_is_serde_json_knows_too() {
    let mut texts = vec![String::new()];
    for _ in 0..6 {
        let longer = texts.iter().flat_map(|text| "-01.e+".chars().map(move |char| format!("{text}{char}")));
        texts = longer.collect();
        for number in &texts {
            let is_json = serde_json::from_str::<&serde_json::value::RawValue>(number).is_ok();
            assert_eq!(text(number).ok().as_ref(), is_json.then_some(number), "{number}");
        }
    }
}

proptest! {
    #[test]
    fn canonical_is_idempotent_and_blind_to_style(
        value in json(),
        one in proptest::collection::vec(any::<u8>(), 0..60),
        two in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let [one, two] = [one, two].map(|choices| {
            let mut out = String::new();
            write(&value, &mut choices.into_iter(), &mut out);
            out
        });
        let first = text(&one).unwrap();
        prop_assert_eq!(&text(&two).unwrap(), &first);
        prop_assert_eq!(&text(&first).unwrap(), &first);
        // It still is the same value, as far as a parser that uses floats can tell.
        let [a, b]: [serde_json::Value; 2] = [&one, &first].map(|json| serde_json::from_str(json).unwrap());
        prop_assert_eq!(a, b);
    }

    #[test]
    fn any_text_gives_an_element_or_an_error(text in "[\\[\\]{}\",:\\\\u0-9a-fA-F.eE+ntrls \n-]{0,40}") {
        let limits = Limits::default();
        let _ = check_limits(&text, &limits);
        let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        match canonical(&text, &limits) {
            Ok(_) => prop_assert!(is_json, "serde_json refuses it"),
            Err(CanonicalError::LoneSurrogate(_) | CanonicalError::DuplicateKey) => {}
            Err(_) => prop_assert!(!is_json, "serde_json takes it"),
        }
    }
}
