"""What the tests of the tree share: keys that end pages often, a store of objects, samples of messages."""
