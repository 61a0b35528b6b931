"""What a store holds: `inspect`, its figures and the contact sheet."""
