//! Exceptions and assertions.

use crate::{
    parse::{
        document::{AssertionDocument, ExceptionDocument},
        resolve::Resolver,
    },
    set::{Assertion, Exception},
};

impl Resolver<'_, '_> {
    pub(super) fn exception(&mut self, document: ExceptionDocument) -> Exception {
        let name = document.name;
        Exception {
            owner: document.owner,
            reason: document.reason,
            expires: document.expires,
            from: self.segments(&document.from),
            to: self.segments(&document.to),
            ports: self.ports(document.ports.as_deref()),
            origin: self.origin(&name, name.text.clone(), name.place.line),
            name: name.text,
        }
    }

    pub(super) fn assertion(&mut self, document: AssertionDocument) -> Assertion {
        let name = document.name;
        Assertion {
            claim: document.claim,
            from: self.segments(&document.from),
            to: self.segments(&document.to),
            ports: self.ports(document.ports.as_deref()),
            origin: self.origin(&name, name.text.clone(), document.line),
            name: name.text,
        }
    }
}
