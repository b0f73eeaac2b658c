"""The salespeople of the simulated company.

Belongs here: who works there, known to both services: name, e-mail, the GUID that Exact's orders carry, the GUID of the
employee record, and whether there is a Pipedrive user for the person.
Does not belong here: anything else about users of either service.
Why: mapping salespeople to CRM users is a job of the extension; both services must tell a consistent story about them.
pipedrive: "active", "inactive" (the user was switched off) or None (never was a user).
"""

PEOPLE = [
    {"name": "Anna de Wit", "email": "anna.dewit@vanderlinden-wonen.example", "pipedrive": "active",
     "exact_guid": "7f3d5c82-1a9e-4d60-8b24-c5e6f0a91b37", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e01"},
    {"name": "Bram Hoekstra", "email": "bram.hoekstra@vanderlinden-wonen.example", "pipedrive": "active",
     "exact_guid": "c1d9b7a4-6e35-4c08-92fb-0d7e4a8b6c15", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e02"},
    {"name": "Chantal Verbeek", "email": "chantal.verbeek@vanderlinden-wonen.example", "pipedrive": "active",
     "exact_guid": "3b8e6f10-94d2-47c5-a1e7-5f2c9d0b8a46", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e03"},
    {"name": "Dirk-Jan Mulder", "email": "dirkjan.mulder@vanderlinden-wonen.example", "pipedrive": "active",
     "exact_guid": "e94a2c07-b86d-4f31-8c5e-1a7d3f60b952", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e04"},
    {"name": "Fatima El Amrani", "email": "fatima.elamrani@vanderlinden-wonen.example", "pipedrive": "active",
     "exact_guid": "58f1d3b9-27ac-4e64-b90d-8c3e6a1f7d24", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e05"},
    {"name": "Jürgen Weißmüller", "email": "juergen.weissmueller@vanderlinden-wonen.example", "pipedrive": "active",
     "exact_guid": "a6c70e5d-1f84-4b92-9e3a-d25b8f4c0167", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e06"},
    {"name": "Marloes Kuipers", "email": "marloes.kuipers@vanderlinden-wonen.example", "pipedrive": "inactive",
     "exact_guid": "d04f8b26-c35e-4a17-86d9-7e1b2a9f5c38", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e07"},
    {"name": "Pieter van den Broek", "email": "pieter.vandenbroek@vanderlinden-wonen.example", "pipedrive": None,
     "exact_guid": "912be7c3-0d5f-4862-a4b8-f63c1e7d9a50", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e08"},
]

# The person who gave Exact's consent; an administrator of the company, no salesperson.
CONSENT_USER = {"name": "Jolanda Koppel", "email": "jolanda.koppel@vanderlinden-wonen.example",
                "exact_guid": "0b6f3c1e-7d42-4a95-b8e0-2c9f5d1a6e73", "employee_guid": "0a4be1d6-53c7-4f0e-9d21-6fb8a7c91e09"}
