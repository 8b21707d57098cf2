//! (acceptor)
