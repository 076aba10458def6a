"""The five services. They meet only in events: none of them ever imports another."""
