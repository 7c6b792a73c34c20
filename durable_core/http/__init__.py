"""HTTP values, independent of any server: headers, requests, responses and problem documents."""
