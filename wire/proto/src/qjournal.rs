//! QJournalProtocol: NameNodes to JournalNodes.
