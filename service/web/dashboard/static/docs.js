// The reader at /docs. Without validatorUrl, Swagger UI would send the address to a public validator.
SwaggerUIBundle({ url: document.getElementById("docs").dataset.description, dom_id: "#docs", deepLinking: true, validatorUrl: null });
