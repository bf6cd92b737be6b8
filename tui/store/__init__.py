"""The store of chats: one SQLite file, plain or sealed by a passphrase."""
