//! Filling a hand-written page: what is between the marks of a table comes from the measurement.

use anyhow::{Result, bail};

const OPEN: &str = "<!-- table: ";
const MARK_END: &str = " -->";
const CLOSE: &str = "<!-- /table -->";

/// Replaces what is between `<!-- table: NAME -->` and `<!-- /table -->` by the block of that name.
///
/// # Errors
/// When the page names a block that there is not, or a mark is not closed.
pub(super) fn fill(page: &str, blocks: &[(String, String)]) -> Result<String> {
    let mut filled = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((name, after)) = after.split_once(MARK_END) else {
            bail!("a line begins `{OPEN}` and lacks `{MARK_END}`");
        };
        let Some((old, after)) = after.split_once(CLOSE) else {
            bail!("`{OPEN}{name}{MARK_END}` lacks its `{CLOSE}`");
        };
        if old.contains(OPEN) {
            bail!("`{OPEN}{name}{MARK_END}` lacks its `{CLOSE}`");
        }
        let Some((_, block)) = blocks.iter().find(|(id, _)| id == name) else {
            let known: Vec<_> = blocks.iter().map(|(id, _)| id.as_str()).collect();
            bail!("there is no table `{name}` in this report; it has {}", known.join(", "));
        };
        filled.push_str(&format!("{before}{OPEN}{name}{MARK_END}\n{}\n{CLOSE}", block.trim()));
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<(String, String)> {
        vec![("a".to_owned(), "| 1 |\n".to_owned())]
    }

    #[test]
    fn what_is_between_the_marks_is_replaced_and_nothing_else() {
        let page =
            "before\n\n<!-- table: a -->\nold\n<!-- /table -->\n\nbetween\n<!-- table: a --><!-- /table -->\nafter\n";
        let filled = fill(page, &blocks()).unwrap();
        let mark = "<!-- table: a -->\n| 1 |\n<!-- /table -->";
        assert_eq!(filled, format!("before\n\n{mark}\n\nbetween\n{mark}\nafter\n"));
        assert_eq!(fill(&filled, &blocks()).unwrap(), filled);
    }

    #[test]
    fn a_table_that_there_is_not_is_an_error() {
        let error = fill("<!-- table: b --><!-- /table -->", &blocks()).unwrap_err();
        assert!(error.to_string().contains("`b`"), "{error}");
    }

    #[test]
    fn a_mark_that_is_not_closed_is_an_error() {
        assert!(fill("<!-- table: a -->", &blocks()).is_err());
        assert!(fill("<!-- table: a --><!-- table: a --><!-- /table -->", &blocks()).is_err());
    }
}
