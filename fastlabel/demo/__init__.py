"""`fastlabel demo`: from digits to students trained on soft labels."""
