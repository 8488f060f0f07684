//! What is wrong with the kernel side, said once and taken back once.

/// The last look's trouble.
#[derive(Debug, Default)]
pub struct Trouble(Option<String>);

/// What a look changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// There is trouble that was not said yet.
    Began(String),
    /// The look was clean, and the one before was not.
    Ended,
}

impl Trouble {
    /// Takes the outcome of a look; none when there is nothing to say.
    pub fn note(&mut self, outcome: Result<(), String>) -> Option<Change> {
        match outcome {
            Ok(()) => self.0.take().map(|_| Change::Ended),
            Err(text) if self.0.as_ref() == Some(&text) => None,
            Err(text) => {
                self.0 = Some(text.clone());
                Some(Change::Began(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_once_and_again_when_it_comes_back_after_a_clean_look() {
        let mut trouble = Trouble::default();
        let bad = || Err("no route".to_owned());
        let began = Some(Change::Began("no route".into()));
        assert_eq!(trouble.note(Ok(())), None);
        assert_eq!(trouble.note(bad()), began);
        assert_eq!(trouble.note(bad()), None);
        assert_eq!(trouble.note(Ok(())), Some(Change::Ended));
        assert_eq!(trouble.note(Ok(())), None);
        assert_eq!(trouble.note(bad()), began);
    }
}
